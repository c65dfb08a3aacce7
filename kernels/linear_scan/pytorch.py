"""The linear scan where there is no kernel: no autograd graph inside, few large operations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 32


def _sequential(a: Tensor, b: Tensor, initial: Tensor, *, reverse: bool) -> Tensor:
    """All h of the recurrence, one fused multiply-add a step."""
    h = torch.empty_like(b)
    rows = list(zip(a.unbind(1), b.unbind(1), h.unbind(1), strict=True))
    previous = initial
    for a_t, b_t, h_t in reversed(rows) if reverse else rows:
        previous = torch.addcmul(b_t, a_t, previous, out=h_t)
    return h


def _scan(a: Tensor, b: Tensor, initial: Tensor, *, reverse: bool = False) -> Tensor:
    """All h of the recurrence (B, T, D), in chunks side by side where one step is too small to be worth its
    launch.
    """
    batch, time, width = b.shape
    if batch * width > 1024 or time < 4 * _CHUNK:  # measured on one core
        return _sequential(a, b, initial, reverse=reverse)
    padding = -time % _CHUNK
    if (
        padding
    ):  # a = b = 0 after the end: what enters backwards from there is the initial state, so put it there
        a, b = F.pad(a, (0, 0, 0, padding)), F.pad(b, (0, 0, 0, padding))
        if reverse:
            a[:, time:] = 1
    return _chunked(a, b, initial, reverse=reverse)[:, :time]


def _chunked(a: Tensor, b: Tensor, initial: Tensor, *, reverse: bool) -> Tensor:
    """Each chunk starts from 0; then the state that enters it is added, scaled by its running product of a.

    Nothing is divided, so decays as small as they like only underflow to the 0 they stand for.
    """
    batch, time, width = b.shape
    count = time // _CHUNK
    a = a.reshape(batch * count, _CHUNK, width)
    b = b.reshape(batch * count, _CHUNK, width)
    zero = b.new_zeros(batch * count, width)
    decay = _sequential(a, torch.zeros_like(a), torch.ones_like(zero), reverse=reverse)
    h = _sequential(a, b, zero, reverse=reverse)
    end = 0 if reverse else _CHUNK - 1
    leaving = _sequential(
        decay[:, end].view(batch, count, width), h[:, end].view(batch, count, width), initial, reverse=reverse
    )
    if reverse:
        entering = torch.cat([leaving[:, 1:], initial[:, None]], dim=1)
    else:
        entering = torch.cat([initial[:, None], leaving[:, :-1]], dim=1)
    h.addcmul_(decay, entering.reshape(batch * count, 1, width))
    return h.view(batch, time, width)


class _LinearScan(torch.autograd.Function):
    """The scan with its gradient, which is the same scan backwards in time."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
        h = _scan(a, b, initial)
        ctx.save_for_backward(a, h, initial)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, initial = ctx.saved_tensors
        # G_t = dL/dh_t + a_{t+1} G_{t+1}: the decay of the next step, none at the last
        following = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
        total = _scan(following, grad_h, torch.zeros_like(initial), reverse=True)
        grad_a = torch.empty_like(a)
        torch.mul(total[:, 1:], h[:, :-1], out=grad_a[:, 1:])
        torch.mul(total[:, 0], initial, out=grad_a[:, 0])
        return grad_a, total, a[:, 0] * total[:, 0]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear_scan_pytorch(
    a: Tensor, b: Tensor, initial_state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `linear_scan_reference`, with one autograd node and no per-step graph."""
    if reset is not None:
        a = a.masked_fill(reset[..., None], 0)
    initial = b.new_zeros(b.shape[0], b.shape[2]) if initial_state is None else initial_state
    h: Tensor = _LinearScan.apply(a, b, initial)  # type: ignore[no-untyped-call]
    return h, h[:, -1]
