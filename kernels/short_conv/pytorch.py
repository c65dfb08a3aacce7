"""The short convolution through PyTorch's depthwise one, with its gradient written out."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_PART = 1 << 17  # numbers worked on at once, so that a product and its sum stay in the cache
_LEAST_TIME = 32  # shorter blocks are not worth a compiled convolution


def _parts(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and times of the batch (B, T, C), few at a time."""
    batch, time, channels = x.shape
    length = min(time, max(1, _PART // channels))
    step = max(1, _PART // (length * channels))
    for row in range(0, batch, step):
        for start in range(0, time, length):
            yield slice(row, row + step), slice(start, min(start + length, time))


def _convolve(history: Tensor, taps: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """y_t = bias + sum_s taps[:, s] * history_{t + s}, history (B, T + K - 1, C) with zeros around it: (B, T, C)."""
    size, time = taps.shape[1], history.shape[1] + 2 * padding - taps.shape[1] + 1
    if history.device.type == "cpu" and history.dtype == torch.float32 and time >= _LEAST_TIME:
        # channels last: the layout that oneDNN has a kernel for, seven times as fast as the sum below
        image, kernels = history.transpose(1, 2)[:, :, None], taps[:, None, None]
        y = F.conv2d(image, kernels, bias, groups=taps.shape[0], padding=(0, padding))
        return y[:, :, 0].transpose(1, 2).contiguous()
    history = F.pad(history, (0, 0, padding, padding))
    y = history[:, :time] * taps[:, 0]
    for place in range(1, size):
        y.addcmul_(history[:, place : place + time], taps[:, place])
    return y if bias is None else y.add_(bias)


class _ShortConv(torch.autograd.Function):
    """Convolution of x (B, T, C), and of the state (B, K - 1, C) before it, with taps (C, K): y (B, T, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor) -> Tensor:
        history = torch.cat([state, x], dim=1)
        ctx.save_for_backward(history, taps)
        ctx.has_bias = bias is not None
        return _convolve(history, taps, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        history, taps = ctx.saved_tensors
        size, grad = taps.shape[1], grad.contiguous()
        grad_history = _convolve(grad, taps.flip(1), None, padding=size - 1)
        grad_taps, grad_bias = torch.zeros_like(taps.t()), torch.zeros_like(taps[:, 0])
        for rows, times in _parts(grad):
            slope = grad[rows, times]
            for place in range(size):
                inputs = history[rows, times.start + place : times.stop + place]
                grad_taps[place] += (slope * inputs).sum((0, 1))
            if ctx.has_bias:
                grad_bias += slope.sum((0, 1))
        reach = size - 1
        return (
            grad_history[:, reach:],
            grad_taps.t(),
            grad_bias if ctx.has_bias else None,
            grad_history[:, :reach],
        )


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
