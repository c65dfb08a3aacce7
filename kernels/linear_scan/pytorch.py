"""The linear scan where there is no kernel: no autograd graph inside, few large operations."""

from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from recallfront.kernels.common.gradients import written_out

_CHUNK = 12  # with the benchmark's batch of 4 x 512 a step over all chunks is just worth two threads


def _sequential(a: Tensor, b: Tensor, initial: Tensor, h: Tensor, *, reverse: bool) -> Tensor:
    """Write all h of the recurrence, one fused multiply-add a step, time second to last; returns the last one."""
    rows = list(zip(a.unbind(-2), b.unbind(-2), h.unbind(-2), strict=True))
    previous = initial
    for a_t, b_t, h_t in reversed(rows) if reverse else rows:
        previous = torch.addcmul(b_t, a_t, previous, out=h_t)
    return previous


def _scan(a: Tensor, b: Tensor, initial: Tensor, h: Tensor, *, reverse: bool = False) -> None:
    """Write all h of the recurrence (B, T, D), in chunks side by side where one step is too small to be worth its
    launch.
    """
    batch, time, width = b.shape
    whole = time - time % _CHUNK
    if batch * width > 1024 or whole < 4 * _CHUNK:  # measured on one core
        _sequential(a, b, initial, h, reverse=reverse)
        return
    # a time that no chunk divides: what is over comes after the chunks, or before them where time runs backwards
    if reverse and whole < time:
        initial = _sequential(a[:, whole:], b[:, whole:], initial, h[:, whole:], reverse=True)
    leaving = _chunked(a[:, :whole], b[:, :whole], initial, h[:, :whole], reverse=reverse)
    if not reverse and whole < time:
        _sequential(a[:, whole:], b[:, whole:], leaving, h[:, whole:], reverse=False)


def _chunked(a: Tensor, b: Tensor, initial: Tensor, h: Tensor, *, reverse: bool) -> Tensor:
    """First only what leaves each chunk, from 0, and the product of its a; then, knowing what enters, all of h.

    Reading a and b twice costs less than keeping a product for every step would. Nothing is divided, so decays as
    small as they like only underflow to the 0 they stand for. Returns the last h.
    """
    a, b, h = (x.unflatten(1, (-1, _CHUNK)) for x in (a, b, h))
    steps = list(zip(a.unbind(2), b.unbind(2), strict=True))
    first, *later = reversed(steps) if reverse else steps
    decay, carry = (x.clone() for x in first)
    for a_t, b_t in later:
        torch.addcmul(b_t, a_t, carry, out=carry)
        decay.mul_(a_t)
    leaving = torch.empty_like(carry)
    last = _sequential(decay, carry, initial, leaving, reverse=reverse)
    before = [initial[:, None], leaving[:, :-1]] if not reverse else [leaving[:, 1:], initial[:, None]]
    _sequential(a, b, torch.cat(before, dim=1), h, reverse=reverse)
    return last


def scan(a: Tensor, b: Tensor, initial: Tensor, *, in_place: bool = False) -> Tensor:
    """All h of the recurrence (B, T, D), of initial (B, D); no gradient. in_place: h takes the memory of b."""
    h = b if in_place else torch.empty(b.shape, dtype=b.dtype, device=b.device)
    _scan(a, b, initial, h)
    return h


def scan_back(a: Tensor, grad_h: Tensor) -> Tensor:
    """What reaches each h_t from all later ones: G_t = dL/dh_t + a_{t+1} G_{t+1} (B, T, D)."""
    total = torch.empty(grad_h.shape, dtype=grad_h.dtype, device=grad_h.device)
    total[:, -1] = grad_h[:, -1]
    if total.shape[1] > 1:
        _scan(a[:, 1:], grad_h[:, :-1], grad_h[:, -1], total[:, :-1], reverse=True)
    return total


class _LinearScan(torch.autograd.Function):
    """The scan with its gradient, which is the same scan backwards in time."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
        h = scan(a, b, initial)
        ctx.save_for_backward(a, h, initial)
        return h

    @staticmethod
    @written_out
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, initial = ctx.saved_tensors
        total = scan_back(a, grad_h)
        grad_a = torch.empty_like(a)
        torch.mul(total[:, 1:], h[:, :-1], out=grad_a[:, 1:])
        torch.mul(total[:, 0], initial, out=grad_a[:, 0])
        return grad_a, total, a[:, 0] * total[:, 0]


def linear_scan_pytorch(
    a: Tensor, b: Tensor, initial_state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `linear_scan_reference`, with one autograd node and no per-step graph; it is not compiled."""
    run = _uncompiled if torch.compiler.is_compiling() else _linear_scan  # the former imports the compiler
    return run(a, b, initial_state, reset)


def _linear_scan(
    a: Tensor, b: Tensor, initial_state: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    if reset is not None:
        a = a.masked_fill(reset[..., None], 0)
    initial = b.new_zeros(b.shape[0], b.shape[2]) if initial_state is None else initial_state
    h: Tensor = _LinearScan.apply(a, b, initial)  # type: ignore[no-untyped-call]
    return h, h[:, -1]


_uncompiled = _disable_dynamo(_linear_scan)
