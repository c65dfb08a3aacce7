"""Products with a gate, silu(g) * x or gelu(g) * x, with their gradient in few passes over memory."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Nonlinearity = Literal["gelu", "silu"]

# gelu(x) = x / (1 + exp(-x (A + B x^2))), the tanh approximation written as a logistic function
_A = 1.5957691216057308  # 2 sqrt(2 / pi)
_B = 0.044715 * _A
_BLOCK = 1 << 17  # numbers worked on at once, so that a chain of operations stays in the cache


def gated_product(packed: Tensor, kind: Nonlinearity) -> Tensor:
    """f(g) * x (..., D) for packed (..., 2 D) = g, x side by side; f is silu or the tanh form of gelu."""
    width = packed.shape[-1] // 2
    if not _suits(packed):
        return _composite(packed[..., :width], packed[..., width:], kind)
    out: Tensor = _PackedProduct.apply(packed.reshape(-1, 2 * width), kind)  # type: ignore[no-untyped-call]
    return out.view(*packed.shape[:-1], width)


def gated(gate: Tensor, x: Tensor, kind: Nonlinearity) -> Tensor:
    """f(gate) * x, both of one shape and type."""
    if not _suits(gate) or gate.dtype != x.dtype:
        return _composite(gate, x, kind)
    width = gate.shape[-1]
    out: Tensor = _Product.apply(gate.reshape(-1, width), x.reshape(-1, width), kind)  # type: ignore[no-untyped-call]
    return out.view(x.shape)


def _suits(gate: Tensor) -> bool:
    """Whether the form with a gradient of its own is worth it: in training, on a CPU, where nothing is rounded."""
    wide = gate.dtype in (torch.float32, torch.float64)
    on_cpu = gate.device.type == "cpu" and wide and not torch.compiler.is_compiling()
    return on_cpu and torch.is_grad_enabled() and gate.requires_grad


def _composite(gate: Tensor, x: Tensor, kind: Nonlinearity) -> Tensor:
    return (F.silu(gate) if kind == "silu" else F.gelu(gate, approximate="tanh")) * x


def _blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(width, 1))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _forward(gate: Tensor, x: Tensor, kind: Nonlinearity) -> tuple[Tensor, Tensor | None]:
    """The product (N, D), and the logistic factor that gelu's gradient needs."""
    out = torch.empty(x.shape, dtype=x.dtype)
    factor = torch.empty_like(out) if kind == "gelu" else None
    for block in _blocks(*x.shape):
        g, o = gate[block], out[block]
        if factor is None:
            torch.mul(F.silu(g), x[block], out=o)
            continue
        s = torch.mul(g, g, out=factor[block]).mul_(_B).add_(_A).mul_(g)
        torch.mul(g, torch.sigmoid(s, out=s), out=o).mul_(x[block])
    return out, factor


def _backward(
    gate: Tensor, x: Tensor, factor: Tensor | None, grad: Tensor, grad_gate: Tensor, grad_x: Tensor
) -> None:
    """Write the gradients of gate and x (N, D)."""
    for block in _blocks(*x.shape):
        g, slope = gate[block], grad[block]
        if factor is None:
            torch.ops.aten.silu_backward.grad_input(slope * x[block], g, grad_input=grad_gate[block])
            torch.mul(slope, F.silu(g), out=grad_x[block])
            continue
        s = factor[block]
        # f'(g) = s (1 + (1 - s) u), u = g (A + 3 B g^2)
        u = (g * g).mul_(3 * _B).add_(_A).mul_(g)
        u.addcmul_(u, s, value=-1).add_(1).mul_(s)
        torch.mul(slope, x[block], out=grad_gate[block]).mul_(u)
        torch.mul(slope, g, out=grad_x[block]).mul_(s)


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, kind: Nonlinearity) -> Tensor:
        gate, x = packed.chunk(2, dim=-1)
        out, factor = _forward(gate, x, kind)
        ctx.save_for_backward(packed, factor)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        packed, factor = ctx.saved_tensors
        grad_packed = torch.empty_like(packed)
        _backward(*packed.chunk(2, dim=-1), factor, grad, *grad_packed.chunk(2, dim=-1))
        return grad_packed, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, x: Tensor, kind: Nonlinearity) -> Tensor:
        out, factor = _forward(gate, x, kind)
        ctx.save_for_backward(gate, x, factor)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, x, factor = ctx.saved_tensors
        grad_gate, grad_x = torch.empty(gate.shape, dtype=gate.dtype), torch.empty(x.shape, dtype=x.dtype)
        _backward(gate, x, factor, grad, grad_gate, grad_x)
        return grad_gate, grad_x, None
