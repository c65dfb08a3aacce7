"""The product with a gate on a GPU: one pass forward and one back, where PyTorch makes two and four."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch, describe
from recallfront.kernels.gpu.launching import launch
from recallfront.kernels.gpu.triton_math import logistic

_TILE, _WARPS = 1024, 4  # numbers a program: 16 bytes a thread where a number has 16 bits


@triton.jit
def _opened(g, GELU: tl.constexpr, PRECISE: tl.constexpr):
    """f(g) = g s(l(g)) with the logistic s, and f'(g); l(g) is g, or g (A + B g^2) for gelu."""
    if GELU:
        square = g * g
        level = g * (1.5957691216057308 + 0.07135481627159943 * square)
        slope = g * (1.5957691216057308 + 0.21406444881479830 * square)
    else:
        level = g
        slope = g
    s = logistic(level, PRECISE)
    rest = 1.0 - s
    if PRECISE:  # the difference loses digits where s is almost 1, and the slope is steep there
        rest = logistic(-level, PRECISE)
    return g * s, s * (1.0 + slope * rest)


@triton.jit(do_not_specialize=["rows"])
def gated_forward(
    gate_ptr, x_ptr, out_ptr, rows, width, gate_stride, x_stride,
    GELU: tl.constexpr, PRECISE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(rows, width, ROWS, WIDTH)
    g = tl.load(gate_ptr + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    opened, _ = _opened(g, GELU, PRECISE)
    tl.store(out_ptr + row * width + column, (opened * x).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def gated_backward(
    gate_ptr, x_ptr, grad_ptr, grad_gate_ptr, grad_x_ptr, rows, width, gate_stride, x_stride,
    grad_stride, out_stride,
    GELU: tl.constexpr, PRECISE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(rows, width, ROWS, WIDTH)
    g = tl.load(gate_ptr + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * grad_stride + column, mask=inside, other=0.0).to(tl.float32)
    opened, slope = _opened(g, GELU, PRECISE)
    kind = grad_x_ptr.dtype.element_ty
    tl.store(grad_gate_ptr + row * out_stride + column, (grad * x * slope).to(kind), mask=inside)
    tl.store(grad_x_ptr + row * out_stride + column, (grad * opened).to(kind), mask=inside)


@triton.jit
def _tile(rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows (ROWS, 1) and columns (1, WIDTH) of this program, and which are there."""
    blocks = tl.cdiv(width, WIDTH)
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % blocks) * WIDTH + tl.arange(0, WIDTH)
    return row[:, None], column[None, :], (row < rows)[:, None] & (column < width)[None, :]


def _flat(x: Tensor) -> Tensor:
    """(..., D) as (N, D) without copying where that is possible, each row together."""
    flat = x.reshape(-1, x.shape[-1]) if x.numel() else x.reshape(0, max(x.shape[-1], 1))
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _sizes(width: int) -> dict[str, int]:
    wide = min(triton.next_power_of_2(max(width, 16)), _TILE)
    return {"ROWS": _TILE // wide, "WIDTH": wide, "num_warps": _WARPS}


def _run(kernel: Any, kind: str, like: Tensor, *arguments: Tensor | int) -> None:
    rows, width = like.shape
    sizes = _sizes(width)
    programs = triton.cdiv(rows, sizes["ROWS"]) * triton.cdiv(width, sizes["WIDTH"])
    precise = like.dtype == torch.float32
    launch(kernel, (programs,), *arguments, GELU=kind == "gelu", PRECISE=precise, **sizes)


def _forward(gate: Tensor, x: Tensor, kind: str) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    gate, flat = _flat(gate), _flat(x)
    _run(gated_forward, kind, flat, gate, flat, out, *flat.shape, gate.stride(0), flat.stride(0))
    return out


def _backward(gate: Tensor, x: Tensor, grad: Tensor, grad_gate: Tensor, grad_x: Tensor, kind: str) -> None:
    gate, x, grad, grad_gate, grad_x = (_flat(tensor) for tensor in (gate, x, grad, grad_gate, grad_x))
    strides = gate.stride(0), x.stride(0), grad.stride(0), grad_x.stride(0)
    _run(gated_backward, kind, x, gate, x, grad, grad_gate, grad_x, *x.shape, *strides)


@torch.library.custom_op("recallfront::gated_product", mutates_args=())
def multiply(gate: Tensor, x: Tensor, kind: str) -> Tensor:
    """f(gate) * x for gate, x (..., D)."""
    return _forward(gate, x, kind)


@multiply.register_fake
def _multiply_fake(gate: Tensor, x: Tensor, kind: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("recallfront::gated_product_backward", mutates_args=())
def multiply_backward(gate: Tensor, x: Tensor, grad: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Gradients of gate and x."""
    grad_gate = torch.empty(x.shape, dtype=gate.dtype, device=x.device)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _backward(gate, x, grad, grad_gate, grad_x, kind)
    return grad_gate, grad_x


@multiply_backward.register_fake
def _multiply_backward_fake(gate: Tensor, x: Tensor, grad: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return torch.empty_like(gate, memory_format=contiguous), torch.empty_like(x, memory_format=contiguous)


@torch.library.custom_op("recallfront::gated_halves", mutates_args=())
def multiply_halves(packed: Tensor, kind: str) -> Tensor:
    """f(g) * x (..., D) for packed (..., 2 D) = g, x side by side."""
    gate, x = packed.chunk(2, dim=-1)
    return _forward(gate, x, kind)


@multiply_halves.register_fake
def _multiply_halves_fake(packed: Tensor, kind: str) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], packed.shape[-1] // 2)


@torch.library.custom_op("recallfront::gated_halves_backward", mutates_args=())
def multiply_halves_backward(packed: Tensor, grad: Tensor, kind: str) -> Tensor:
    """Gradient of packed."""
    grad_packed = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device)
    gate, x = packed.chunk(2, dim=-1)
    grad_gate, grad_x = grad_packed.chunk(2, dim=-1)
    _backward(gate, x, grad, grad_gate, grad_x, kind)
    return grad_packed


@multiply_halves_backward.register_fake
def _multiply_halves_backward_fake(packed: Tensor, grad: Tensor, kind: str) -> Tensor:
    return torch.empty_like(packed, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kind = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *multiply_backward(*ctx.saved_tensors, grad, ctx.kind), None


def _differentiate_halves(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return multiply_halves_backward(*ctx.saved_tensors, grad, ctx.kind), None


multiply.register_autograd(_differentiate, setup_context=_save)
multiply_halves.register_autograd(_differentiate_halves, setup_context=_save)


def launches() -> list[Launch]:
    """Every configuration in which these kernels may be launched, at the widths of wide, narrow and few channels."""
    found = []
    for kind in ("fp32", "bf16", "fp16"):
        forward = dict.fromkeys(("gate_ptr", "x_ptr", "out_ptr"), kind)
        backward = dict.fromkeys(("gate_ptr", "x_ptr", "grad_ptr", "grad_gate_ptr", "grad_x_ptr"), kind)
        for width in (4096, 64, 16):
            for gelu in (False, True):
                options: dict[str, Any] = {"GELU": gelu, "PRECISE": kind == "fp32", **_sizes(width)}
                found.append(describe(gated_forward, forward, **options))
                found.append(describe(gated_backward, backward, **options))
    return found
