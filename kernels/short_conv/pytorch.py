"""The short convolution as a few shifted multiply-adds in place, with their gradient written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _ShortConv(torch.autograd.Function):
    """Convolution of a history (B, K - 1 + T, C) with taps (C, K): y (B, T, C)."""

    @staticmethod
    def forward(ctx: Any, history: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(history, taps)
        ctx.has_bias = bias is not None
        size = taps.shape[1]
        time = history.shape[1] - size + 1
        newest = history[:, size - 1 :]
        y = newest * taps[:, -1] if bias is None else torch.addcmul(bias, newest, taps[:, -1])
        for tap in range(size - 1):
            y.addcmul_(history[:, tap : tap + time], taps[:, tap])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        history, taps = ctx.saved_tensors
        size, time = taps.shape[1], grad.shape[1]
        grad_history = torch.zeros_like(history)
        grad_taps = torch.empty_like(taps)
        for tap in range(size):
            grad_history[:, tap : tap + time].addcmul_(grad, taps[:, tap])
            grad_taps[:, tap] = (grad * history[:, tap : tap + time]).sum((0, 1))
        return grad_history, grad_taps, grad.sum((0, 1)) if ctx.has_bias else None


def short_conv_pytorch(
    x: Tensor, taps: Tensor, bias: Tensor | None, initial_state: Tensor, positions: Tensor | None
) -> Tensor:
    """As `short_conv_reference`."""
    if positions is not None:
        return _packed(x, taps, bias, initial_state, positions)
    y: Tensor = _ShortConv.apply(torch.cat([initial_state, x], dim=1), taps, bias)  # type: ignore[no-untyped-call]
    return y


def _packed(x: Tensor, taps: Tensor, bias: Tensor | None, initial_state: Tensor, positions: Tensor) -> Tensor:
    """The taps reach past no document start: gather each token's own history, then weigh it."""
    size = taps.shape[1]
    history = torch.cat([initial_state, x], dim=1).unfold(1, size, 1)  # (B, T, C, K), oldest first
    distance = torch.arange(size - 1, -1, -1, device=x.device)
    visible = (positions[..., None] >= distance).to(x.dtype)
    y = torch.einsum("btck,ck,btk->btc", history, taps, visible)
    return y if bias is None else y + bias
