"""Root-mean-square normalisation on a GPU: rows are read once, forward and backward."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch, describe
from recallfront.kernels.gpu.launching import launch

_NUMBERS = 4096  # held at once by a program, where a row is no longer
# rows a program: the gain is read, and its gradient written, once for them
_LEAST_FORWARD, _LEAST_BACKWARD = 4, 32


@triton.jit(do_not_specialize=["rows"])
def norm_forward(
    x_ptr, gain_ptr, y_ptr, inverse_ptr, rows, width, eps, x_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, WIDTH)
    gain = tl.load(gain_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    for loop in range(LOOPS):
        row = (tl.program_id(0).to(tl.int64) * LOOPS + loop) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(x * x, axis=1) / width + eps)
        y = (x * inverse[:, None] * gain).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + row[:, None] * width + column[None, :], y, mask=inside)
        tl.store(inverse_ptr + row, inverse, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def norm_backward(
    x_ptr, gain_ptr, inverse_ptr, grad_ptr, grad_x_ptr, part_ptr, rows, width, x_stride, grad_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    """With n = x / rms: dL/dx = (g gain - n mean(g gain n)) / rms, and g n, summed over rows, is the gain's."""
    column = tl.arange(0, WIDTH)
    gain = tl.load(gain_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    grad_gain = tl.zeros([WIDTH], tl.float32)
    for loop in range(LOOPS):
        row = (tl.program_id(0).to(tl.int64) * LOOPS + loop) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        grad_place = row[:, None] * grad_stride + column[None, :]
        grad = tl.load(grad_ptr + grad_place, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(inverse_ptr + row, mask=row < rows, other=0.0)[:, None]
        normal = x * inverse
        grad_gain += tl.sum(grad * normal, axis=0)
        grad = grad * gain
        along = tl.sum(grad * normal, axis=1) / width
        grad_x = ((grad - normal * along[:, None]) * inverse).to(grad_x_ptr.dtype.element_ty)
        tl.store(grad_x_ptr + row[:, None] * width + column[None, :], grad_x, mask=inside)
    part = part_ptr + tl.program_id(0).to(tl.int64) * width + column
    tl.store(part, grad_gain, mask=column < width)


def _flat(x: Tensor) -> Tensor:
    """(..., D) as (N, D), each row together."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _cut(rows: int, width: int, least: int) -> tuple[int, dict[str, int]]:
    """Programs, and the rest of a launch."""
    wide = triton.next_power_of_2(max(width, 16))
    together = max(1, min(_NUMBERS // wide, triton.next_power_of_2(max(rows, 1))))
    loops = triton.cdiv(least, together)
    sizes = {"ROWS": together, "WIDTH": wide, "LOOPS": loops, "num_warps": 4 if wide <= _NUMBERS else 16}
    return triton.cdiv(rows, together * loops), sizes


@torch.library.custom_op("recallfront::rms_norm", mutates_args=())
def normalise(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y, like x (..., D), and 1 / sqrt(mean x^2 + eps) of each row (N) in float32."""
    flat = _flat(x)
    rows, width = flat.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    inverse = torch.empty(rows, dtype=torch.float32, device=x.device)
    programs, sizes = _cut(rows, width, _LEAST_FORWARD)
    arguments = (flat, gain.contiguous(), y, inverse, rows, width, eps, flat.stride(0))
    launch(norm_forward, (programs,), *arguments, **sizes)
    return y, inverse


@normalise.register_fake
def _normalise_fake(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(rows, dtype=torch.float32)


@torch.library.custom_op("recallfront::rms_norm_backward", mutates_args=())
def backward(x: Tensor, gain: Tensor, inverse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and gain."""
    flat, slope = _flat(x), _flat(grad)
    rows, width = flat.shape
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    programs, sizes = _cut(rows, width, _LEAST_BACKWARD)
    part = torch.empty(programs, width, dtype=torch.float32, device=x.device)
    launch(
        norm_backward, (programs,), flat, gain.contiguous(), inverse, slope, grad_x, part, rows, width,
        flat.stride(0), slope.stride(0), **sizes,
    )  # fmt: skip
    return grad_x, part.sum(0).to(gain.dtype)


@backward.register_fake
def _backward_fake(x: Tensor, gain: Tensor, inverse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(gain)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *backward(*ctx.saved_tensors, grad), None


normalise.register_autograd(_differentiate, setup_context=_save)


def launches() -> list[Launch]:
    """Every configuration in which these kernels may be launched, at widths from few channels to the most."""
    found = []
    for kind in ("fp32", "bf16", "fp16"):
        forward = dict.fromkeys(("x_ptr", "gain_ptr", "y_ptr"), kind) | {"inverse_ptr": "fp32"}
        backward = dict.fromkeys(("x_ptr", "gain_ptr", "grad_ptr", "grad_x_ptr"), kind)
        backward |= dict.fromkeys(("inverse_ptr", "part_ptr"), "fp32")
        for width in (16, 64, 1024, 4096, 8192):
            for kernel, types, least in (
                (norm_forward, forward, _LEAST_FORWARD),
                (norm_backward, backward, _LEAST_BACKWARD),
            ):
                sizes: dict[str, Any] = _cut(2**20, width, least)[1]
                found.append(describe(kernel, types, floats=("eps",), **sizes))
    return found
