"""Products with a gate, and the residual channel mixer around one: few passes over memory on a CPU."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.common.gradients import written_out
from recallfront.kernels.gated_product.operator import Nonlinearity, gated_product
from recallfront.kernels.rms_norm.pytorch import inverse_rms, rms_norm_back

# both are g * sigmoid(l(g)): silu with l(g) = g, the tanh form of gelu with l(g) = g (A + B g^2)
_A = 1.5957691216057308  # 2 sqrt(2 / pi)
_B = 0.044715 * _A
_BLOCK = 1 << 17  # numbers worked on at once, so that a chain of operations stays in the cache
_ROWS = 512  # tokens that go through the channel mixer at once: enough for its matrix products, little memory


def gated(gate: Tensor, x: Tensor, kind: Nonlinearity) -> Tensor:
    """f(gate) * x, both (..., D) of one type; f is silu or the tanh form of gelu."""
    if not trains_on_cpu(gate):
        return gated_product(gate, x, kind)
    width = gate.shape[-1]
    out: Tensor = _Gated.apply(gate.reshape(-1, width), x.reshape(-1, width), kind)  # type: ignore[no-untyped-call]
    return out.view(x.shape)


def add_gated_mlp(
    x: Tensor,
    norm: tuple[Tensor, float],
    up: tuple[Tensor, Tensor | None],
    down: tuple[Tensor, Tensor | None],
    kind: Nonlinearity,
) -> Tensor:
    """x + down (f(g) * u) with g, u = up norm(x), for x (..., D); in training, on a CPU.

    norm: gain (D) and eps of a root-mean-square norm; up: weight (2 hidden, D) and bias; down: weight (D, hidden) and
    bias. All of it goes by few tokens at a time, so that what lies between the products is still in the cache.
    """
    flat = x.reshape(-1, x.shape[-1])
    out: Tensor = _AddedGatedMLP.apply(flat, *norm, *up, *down, kind)  # type: ignore[no-untyped-call]
    return out.view(x.shape)


def trains_on_cpu(x: Tensor) -> bool:
    """Whether a form with a gradient of its own is worth it: in training, on a CPU, where nothing is rounded."""
    wide = x.dtype in (torch.float32, torch.float64)
    return x.device.type == "cpu" and wide and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _parts(rows: int, step: int) -> Iterator[slice]:
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def _blocks(rows: int, width: int) -> Iterator[slice]:
    return _parts(rows, max(1, _BLOCK // width))


def _logit(g: Tensor, kind: Nonlinearity, out: Tensor) -> Tensor:
    """l(g), written to `out`."""
    if kind == "silu":
        return out.copy_(g)
    return torch.addcmul(g.new_tensor(_A), g, g, value=_B, out=out).mul_(g)


def _slope(g: Tensor, logit: Tensor, s: Tensor, kind: Nonlinearity) -> Tensor:
    """f'(g) = s (1 + (1 - s) g l'(g)), in the memory of the logit."""
    factor = 1
    if kind == "gelu":  # g l'(g) = 3 (l(g) - 2/3 A g)
        factor = 3
        logit.add_(g, alpha=-2 / 3 * _A)
    logit.addcmul_(logit, s, value=-1)
    return torch.addcmul(s, logit, s, value=factor, out=logit)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, x: Tensor, kind: Nonlinearity) -> Tensor:
        ctx.save_for_backward(gate, x)
        ctx.kind = kind
        out = torch.empty(x.shape, dtype=x.dtype)
        for block in _blocks(*x.shape):
            g = gate[block]
            _logit(g, kind, out[block]).sigmoid_().mul_(g).mul_(x[block])
        return out

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, x = ctx.saved_tensors
        grad_gate, grad_x = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
        for block in _blocks(*x.shape):
            g, logit = gate[block], _logit(gate[block], ctx.kind, grad_gate[block])
            s = torch.sigmoid(logit, out=grad_x[block])
            _slope(g, logit, s, ctx.kind).mul_(grad[block]).mul_(x[block])
            s.mul_(g).mul_(grad[block])
        return grad_gate, grad_x, None


class _AddedGatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        eps: float,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        kind: Nonlinearity,
    ) -> Tensor:
        inverse, hidden, y = inverse_rms(x, eps), x.new_empty(x.shape[0], up.shape[0]), torch.empty_like(x)
        products = x.new_empty(min(_ROWS, x.shape[0]), down.shape[1])
        for part in _parts(x.shape[0], _ROWS):
            normal = (x[part] * inverse[part]).mul_(gain)
            inner, product = hidden[part], products[: len(normal)]
            torch.mm(normal, up.T, out=inner)
            for block in _blocks(*product.shape):
                if up_bias is not None:
                    inner[block].add_(up_bias)
                g, u = inner[block].chunk(2, dim=-1)
                _logit(g, kind, product[block]).sigmoid_().mul_(g).mul_(u)
            torch.addmm(x[part], product, down.T, out=y[part])
        ctx.save_for_backward(x, gain, inverse, up, down, hidden)
        ctx.kind, ctx.biases = kind, (up_bias is not None, down_bias is not None)
        return y if down_bias is None else y.add_(down_bias)

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, inverse, up, down, hidden = ctx.saved_tensors
        with_up, with_down = ctx.biases
        grad_x, grad_gain, grad_bias = (
            torch.empty_like(x),
            torch.zeros_like(gain),
            hidden.new_zeros(hidden.shape[1]),
        )
        grad_up, grad_down = torch.zeros_like(up.T), torch.zeros_like(down)
        rows = min(_ROWS, x.shape[0])
        products, inners = x.new_empty(rows, down.shape[1]), x.new_empty(rows, up.shape[0])
        for part in _parts(x.shape[0], _ROWS):
            slope = grad[part]
            inner, product = inners[: len(slope)], products[: len(slope)]
            torch.mm(slope, down, out=product)
            _gate_back(hidden[part], product, inner, ctx.kind)
            grad_down.addmm_(slope.T, product)
            grad_up.addmm_((x[part] * inverse[part]).mul_(gain).T, inner)
            if with_up:
                grad_bias += inner.sum(0)
            through = rms_norm_back(inner @ up, x[part], inverse[part], gain, grad_gain)
            torch.add(slope, through, out=grad_x[part])
        return (
            grad_x,
            grad_gain,
            None,
            grad_up.T,
            grad_bias if with_up else None,
            grad_down,
            grad.sum(0) if with_down else None,
            None,
        )


def _gate_back(hidden: Tensor, product: Tensor, grad_hidden: Tensor, kind: Nonlinearity) -> None:
    """Write the gradient of hidden (N, 2 D); product (N, D): first the product's gradient, then the product itself.

    What lies between is kept in the memory of the results: fresh memory would be cold.
    """
    spare = torch.empty_like(product[next(_blocks(*product.shape))])
    for block in _blocks(*product.shape):
        g, u = hidden[block].chunk(2, dim=-1)
        grad_g, grad_u = grad_hidden[block].chunk(2, dim=-1)
        logit, slope = _logit(g, kind, grad_g), product[block]
        s = torch.sigmoid(logit, out=spare[: len(g)])
        _slope(g, logit, s, kind).mul_(slope).mul_(u)
        opened = s.mul_(g)
        torch.mul(slope, opened, out=grad_u)
        torch.mul(opened, u, out=slope)
