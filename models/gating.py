"""Products with a gate, and the channel mixer around one: few passes over memory on a CPU."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recallfront.kernels.gated_product.operator import Nonlinearity, gated_product

# both are g * sigmoid(l(g)): silu with l(g) = g, the tanh form of gelu with l(g) = g (A + B g^2)
_A = 1.5957691216057308  # 2 sqrt(2 / pi)
_B = 0.044715 * _A
_BLOCK = 1 << 17  # numbers worked on at once, so that a chain of operations stays in the cache


def gated(gate: Tensor, x: Tensor, kind: Nonlinearity) -> Tensor:
    """f(gate) * x, both (..., D) of one type; f is silu or the tanh form of gelu."""
    if not trains_on_cpu(gate):
        return gated_product(gate, x, kind)
    width = gate.shape[-1]
    out: Tensor = _Gated.apply(gate.reshape(-1, width), x.reshape(-1, width), kind)  # type: ignore[no-untyped-call]
    return out.view(x.shape)


def gated_mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, kind: Nonlinearity
) -> Tensor:
    """down (f(g) * u) with g, u = up x: x (..., D), up (2 hidden, D), down (D, hidden); in training, on a CPU.

    The biases, where there are any, are added while their products are in the cache anyway.
    """
    flat = x.reshape(-1, x.shape[-1])
    out: Tensor = _GatedMLP.apply(flat, up, up_bias, down, down_bias, kind)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], down.shape[0])


def trains_on_cpu(x: Tensor) -> bool:
    """Whether a form with a gradient of its own is worth it: in training, on a CPU, where nothing is rounded."""
    wide = x.dtype in (torch.float32, torch.float64)
    return x.device.type == "cpu" and wide and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // width)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _logit(g: Tensor, kind: Nonlinearity) -> Tensor:
    """l(g), in new memory."""
    return g.clone() if kind == "silu" else torch.addcmul(g.new_tensor(_A), g, g, value=_B).mul_(g)


def _slope(g: Tensor, logit: Tensor, s: Tensor, kind: Nonlinearity) -> Tensor:
    """f'(g) = s (1 + (1 - s) g l'(g)), in the memory of the logit."""
    if kind == "gelu":  # g l'(g) = 3 l(g) - 2 A g
        logit.mul_(3).add_(g, alpha=-2 * _A)
    logit.addcmul_(logit, s, value=-1)
    return torch.addcmul(s, logit, s, out=logit)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, x: Tensor, kind: Nonlinearity) -> Tensor:
        ctx.save_for_backward(gate, x)
        ctx.kind = kind
        out = torch.empty(x.shape, dtype=x.dtype)
        for block in _blocks(*x.shape):
            g = gate[block]
            torch.mul(g, _logit(g, kind).sigmoid_(), out=out[block]).mul_(x[block])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, x = ctx.saved_tensors
        grad_gate, grad_x = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
        for block in _blocks(*x.shape):
            g, logit = gate[block], _logit(gate[block], ctx.kind)
            s = torch.sigmoid(logit)
            torch.mul(grad[block], x[block], out=grad_gate[block]).mul_(_slope(g, logit, s, ctx.kind))
            torch.mul(grad[block], s.mul_(g), out=grad_x[block])
        return grad_gate, grad_x, None


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        kind: Nonlinearity,
    ) -> Tensor:
        hidden = x @ up.T
        product = torch.empty(x.shape[0], down.shape[1], dtype=x.dtype)
        for block in _blocks(*product.shape):
            if up_bias is not None:
                hidden[block].add_(up_bias)
            g, u = hidden[block].chunk(2, dim=-1)
            torch.mul(g, _logit(g, kind).sigmoid_(), out=product[block]).mul_(u)
        ctx.save_for_backward(x, up, down, hidden)
        ctx.kind, ctx.biases = kind, (up_bias is not None, down_bias is not None)
        y = product @ down.T
        return y if down_bias is None else y.add_(down_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, up, down, hidden = ctx.saved_tensors
        with_up, with_down = ctx.biases
        grad_hidden, grad_bias = torch.empty_like(hidden), torch.zeros_like(hidden[0])
        product = grad @ down  # each block: first the gradient of the product, then the product itself
        for block in _blocks(*product.shape):
            g, u = hidden[block].chunk(2, dim=-1)
            grad_g, grad_u = grad_hidden[block].chunk(2, dim=-1)
            logit, slope = _logit(g, ctx.kind), product[block]
            s = torch.sigmoid(logit)
            torch.mul(slope, u, out=grad_g).mul_(_slope(g, logit, s, ctx.kind))
            torch.mul(slope, s.mul_(g), out=grad_u)
            torch.mul(s, u, out=slope)
            if with_up:
                grad_bias += grad_hidden[block].sum(0)
        return (
            grad_hidden @ up,
            (x.T @ grad_hidden).T,  # a fifth faster than the other way round
            grad_bias if with_up else None,
            grad.T @ product,
            grad.sum(0) if with_down else None,
            None,
        )
