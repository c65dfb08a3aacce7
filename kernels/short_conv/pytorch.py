"""The short convolution as a few shifted multiply-adds in place, with their gradient written out."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_PART = 1 << 17  # numbers worked on at once, so that a chain of operations stays in the cache
_LEAST_CHANNELS = 64  # narrower rows than this are read too slowly


def _parts(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and channels of the batch (B, T, C), few at a time."""
    batch, time, channels = x.shape
    width = min(channels, max(_LEAST_CHANNELS, _PART // time))
    step = max(1, _PART // (time * width))
    for row in range(0, batch, step):
        for channel in range(0, channels, width):
            yield slice(row, row + step), slice(channel, channel + width)


class _ShortConv(torch.autograd.Function):
    """Convolution of x (B, T, C), and of the state (B, K - 1, C) before it, with taps (C, K): y (B, T, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, state)
        ctx.has_bias = bias is not None
        size, time = taps.shape[1], x.shape[1]
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for rows, channels in _parts(x):
            inputs, out, before = (z[rows, :, channels] for z in (x, y, state))
            torch.mul(inputs, taps[channels, -1], out=out)
            if bias is not None:
                out += bias[channels]
            for back in range(1, size):
                tap = taps[channels, size - 1 - back]
                out[:, back:].addcmul_(inputs[:, : max(time - back, 0)], tap)
                out[:, :back].addcmul_(before[:, size - 1 - back :][:, :time], tap)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        x, taps, state = ctx.saved_tensors
        size, time = taps.shape[1], x.shape[1]
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_taps, grad_bias = torch.zeros_like(taps), torch.zeros_like(taps[:, 0])
        grad_state = torch.zeros_like(state)
        for rows, channels in _parts(x):
            inputs, before, slope = (z[rows, :, channels] for z in (x, state, grad))
            grad_inputs, grad_before = (z[rows, :, channels] for z in (grad_x, grad_state))
            torch.mul(slope, taps[channels, -1], out=grad_inputs)
            grad_taps[channels, -1] += (slope * inputs).sum((0, 1))
            if ctx.has_bias:
                grad_bias[channels] += slope.sum((0, 1))
            for back in range(1, size):
                place = size - 1 - back
                later, first = slope[:, back:], slope[:, :back]
                earlier, old = inputs[:, : max(time - back, 0)], before[:, place:][:, :time]
                grad_inputs[:, : max(time - back, 0)].addcmul_(later, taps[channels, place])
                grad_before[:, place:][:, :time].addcmul_(first, taps[channels, place])
                grad_taps[channels, place] += (later * earlier).sum((0, 1)) + (first * old).sum((0, 1))
        return grad_x, grad_taps, grad_bias if ctx.has_bias else None, grad_state


def short_conv_pytorch(
    x: Tensor, taps: Tensor, bias: Tensor | None, initial_state: Tensor, positions: Tensor | None
) -> Tensor:
    """As `short_conv_reference`."""
    if positions is not None:
        return _packed(x, taps, bias, initial_state, positions)
    y: Tensor = _ShortConv.apply(x, taps, bias, initial_state)  # type: ignore[no-untyped-call]
    return y


def _packed(x: Tensor, taps: Tensor, bias: Tensor | None, initial_state: Tensor, positions: Tensor) -> Tensor:
    """The taps reach past no document start: gather each token's own history, then weigh it."""
    size = taps.shape[1]
    history = torch.cat([initial_state, x], dim=1).unfold(1, size, 1)  # (B, T, C, K), oldest first
    distance = torch.arange(size - 1, -1, -1, device=x.device)
    visible = (positions[..., None] >= distance).to(x.dtype)
    y = torch.einsum("btck,ck,btk->btc", history, taps, visible)
    return y if bias is None else y + bias
