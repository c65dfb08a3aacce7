"""The short convolution through PyTorch's depthwise one, with its gradient written out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.gradients import written_out

_PART = 1 << 16  # numbers worked on at once, so that their sums stay in the cache
_LEAST_TIME = 32  # shorter blocks are not worth a compiled convolution


def _taps_gradient(grad: Tensor, history: Tensor, size: int) -> Tensor:
    """sum over b, t of grad[b, t, c] * history[b, t + s, c]: (C, size); grad (B, T, C), history (B, T + size - 1, C).

    Parts of the batch are added up token by token, and their tokens at the end: one pass over memory.
    """
    batch, time, channels = grad.shape
    length = min(time, max(1, _PART // channels))
    step = max(1, min(batch, _PART // (length * channels)))
    wide = torch.promote_types(grad.dtype, torch.float32)
    total = grad.new_zeros(size, step, length, channels, dtype=wide)
    windows = history.unfold(1, size, 1).permute(3, 0, 1, 2)  # (size, B, T, C)
    for row in range(0, batch, step):
        for start in range(0, time, length):
            part = slice(row, row + step), slice(start, start + length)
            slope = grad[part]
            total[:, : slope.shape[0], : slope.shape[1]].addcmul_(slope, windows[:, *part])
    return total.sum((1, 2)).t().to(grad.dtype)


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
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        history, taps = ctx.saved_tensors
        size, grad = taps.shape[1], grad.contiguous()
        grad_history = _convolve(grad, taps.flip(1), None, padding=size - 1)
        reach = size - 1
        return (
            grad_history[:, reach:],
            _taps_gradient(grad, history, size),
            grad.sum((0, 1)) if ctx.has_bias else None,
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
    """The taps reach past no document start: one pass over memory for each."""
    reach, time = taps.shape[1] - 1, x.shape[1]
    history = torch.cat([initial_state, x], dim=1)
    y = x * taps[:, reach]
    for distance in range(1, reach + 1):
        visible = (positions >= distance)[..., None]
        past = history[:, reach - distance : reach - distance + time] * visible
        y = torch.addcmul(y, past, taps[:, reach - distance])
    return y if bias is None else y + bias
