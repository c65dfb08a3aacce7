"""Taylor attention on a CPU: blocks of queries small enough for the cache, with the gradient written out."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.gradients import written_out

_BLOCK = 64  # queries at a time


def suits(q: Tensor) -> bool:
    """Whether this form covers q (B, T, H, F): it computes as it accumulates."""
    wide = q.dtype in (torch.float32, torch.float64)
    return q.device.type == "cpu" and wide and not torch.compiler.is_compiling()


def block_taylor_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, eps: float) -> Tensor:
    """As `taylor_attention_reference`; memory grows with the time, work with its square."""
    out: Tensor = _BlockTaylor.apply(q, k, v, scale, eps)  # type: ignore[no-untyped-call]
    return out


def _by_head(x: Tensor) -> Tensor:
    """(B, T, H, D) -> (B * H, T, D)."""
    return x.transpose(1, 2).flatten(0, 1)


def _by_token(x: Tensor, batch: int) -> Tensor:
    """(B * H, T, D) -> (B, T, H, D)."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


class _Weights:
    """(1 + s) / sqrt(2), and the weights 1 + s + s^2 / 2, which are its square plus a half, block after block."""

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.q, self.k = q, k.transpose(1, 2)
        self.memory = q.new_empty(2, q.shape[0] * _BLOCK * q.shape[1])

    def blocks(self) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """First and last query; roots and weights (rows, queries, keys up to the last)."""
        rows, time, _ = self.q.shape
        for start in range(0, time, _BLOCK):
            stop = min(start + _BLOCK, time)
            size = (rows, stop - start, stop)
            roots, weights = (part[: math.prod(size)].view(size) for part in self.memory)
            torch.bmm(self.q[:, start:stop], self.k[:, :, :stop], out=roots)
            torch.mul(roots, roots, out=weights).add_(0.5)
            for part in (roots, weights):
                part[:, :, start:].tril_()
            yield start, stop, roots, weights


class _BlockTaylor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, eps: float) -> Tensor:
        batch = q.shape[0]
        root = math.sqrt(0.5)
        # a last dimension that adds the 1 of (1 + s) / sqrt(2)
        q = F.pad(_by_head(q) * (scale * root), (0, 1), value=root)
        k, v = F.pad(_by_head(k), (0, 1), value=1.0), _by_head(v)
        out, total = torch.empty_like(v), torch.empty_like(v[..., :1])
        for start, stop, _, weights in _Weights(q, k).blocks():
            total[:, start:stop] = weights.sum(-1, keepdim=True).add_(eps)
            out[:, start:stop] = torch.bmm(weights, v[:, :stop]).div_(total[:, start:stop])
        ctx.save_for_backward(q, k, v, out, total)
        ctx.batch, ctx.factor = batch, scale * root
        return _by_token(out, batch)

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, total = ctx.saved_tensors
        grad = _by_head(grad) / total
        through_total = (grad * out).sum(-1, keepdim=True).mul_(-1)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        values = v.transpose(1, 2)
        for start, stop, roots, weights in _Weights(q, k).blocks():
            slope = grad[:, start:stop]
            grad_v[:, :stop] += weights.transpose(1, 2) @ slope
            # the weights are not needed any more: their memory takes the gradient of the roots
            torch.bmm(slope, values[:, :, :stop], out=weights).add_(through_total[:, start:stop])
            weights.mul_(roots).mul_(2)
            grad_q[:, start:stop] = weights @ k[:, :stop]
            grad_k[:, :stop] += weights.transpose(1, 2) @ q[:, start:stop]
        parts = (grad_q[..., :-1] * ctx.factor, grad_k[..., :-1], grad_v)
        grads = [_by_token(part, ctx.batch) for part in parts]
        return grads[0], grads[1], grads[2], None, None
