"""Window attention on a CPU: blocks of queries small enough for the cache, with the gradient written out."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.common.gradients import written_out

_BLOCK = 64  # queries at a time: fastest of 16 to 256
_KEPT = 1 << 22  # biases up to this many numbers are kept from call to call
_TINY = 1e-30  # smaller weights are taken as 0: numbers that are not normal slow a product down tenfold

Slopes = tuple[float, ...]


def suits(q: Tensor, k: Tensor) -> bool:
    """Whether this form covers the tensors: it computes as it accumulates, and a batch has a row at least."""
    wide = q.dtype in (torch.float32, torch.float64)
    return q.device.type == "cpu" and wide and q.shape[0] > 0 and not _is_compiling()


def _is_compiling() -> bool:
    return bool(torch.compiler.is_compiling())


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, window_size: int | None, slopes: Slopes | None, scale: float
) -> Tensor:
    """As `window_attention_reference` without learned biases and segments; memory grows with the time, not its
    square.
    """
    out: Tensor = _BlockAttention.apply(q, k, v, window_size, slopes, scale)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True)
class _Shape:
    batch: int
    time: int
    keys: int
    kv_heads: int
    shared: int  # query heads that share a key head: they are its queries, side by side
    window_size: int | None

    @property
    def rows(self) -> int:
        return self.batch * self.kv_heads

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """First and last query of each block, and the keys they see."""
        before = self.keys - self.time
        cuts = []
        for start in range(0, self.time, _BLOCK):
            stop = min(start + _BLOCK, self.time)
            first = 0 if self.window_size is None else max(0, before + start - self.window_size + 1)
            cuts.append((start, stop, first, before + stop))
        return cuts

    @property
    def widest(self) -> int:
        """Keys of the block that sees most."""
        return max(stop - start for _, _, start, stop in self.blocks())


def _bias(
    widest: int, window_size: int | None, slopes: Slopes | None, shared: int, dtype: torch.dtype
) -> Tensor:
    """Bias of a block of queries on the keys up to its last one (H_kv or 1, block, shared or 1, widest)."""
    age = torch.arange(_BLOCK)[:, None] - torch.arange(_BLOCK - widest, _BLOCK)
    bias = torch.zeros(1, _BLOCK, 1, widest, dtype=dtype)
    if slopes is not None:
        by_head = torch.tensor(slopes, dtype=dtype).view(-1, 1, shared, 1)
        bias = -by_head * age[None, :, None]
    hidden = age < 0 if window_size is None else (age < 0) | (age >= window_size)
    return bias.masked_fill(hidden[None, :, None], -math.inf)


_kept_bias = lru_cache(maxsize=16)(_bias)


class _Weights:
    """Softmax weights of one block of queries after the other, all in the same memory."""

    def __init__(self, shape: _Shape, q: Tensor, k: Tensor, slopes: Slopes | None) -> None:
        self.shape, self.q, self.k = shape, q, k.transpose(1, 2)
        self.decays = slopes is not None
        heads = 1 if slopes is None else len(slopes)
        make = _kept_bias if heads * _BLOCK * shape.widest <= _KEPT else _bias
        self.bias = make(shape.widest, shape.window_size, slopes, shape.shared, q.dtype)
        self.memory = q.new_empty(shape.rows * _BLOCK * shape.shared * shape.widest)

    def of(self, start: int, stop: int, first: int, last: int) -> Tensor:
        """Weights (rows, queries, keys) of the queries from `start` on the keys from `first`."""
        s, count = self.shape, stop - start
        size = (s.batch, s.kv_heads, count, s.shared, last - first)
        weights = self.memory[: math.prod(size)].view(size)
        weights.copy_(self.bias[:, _BLOCK - count :, :, s.widest - (last - first) :])
        weights = weights.view(s.rows, count * s.shared, last - first)
        weights.baddbmm_(self.q[:, start * s.shared : stop * s.shared], self.k[:, :, first:last])
        torch.softmax(weights, -1, out=weights)
        return torch.threshold_(weights, _TINY, 0.0) if self.decays else weights


def _by_key_head(x: Tensor, kv_heads: int, scale: float | None = None) -> Tensor:
    """(B, T, H, D) -> (B * H_kv, T * H / H_kv, D), contiguous."""
    batch, time, heads, width = x.shape
    x = x.view(batch, time, kv_heads, heads // kv_heads, width).permute(0, 2, 1, 3, 4)
    x = x.contiguous() if scale is None else x * scale
    return x.reshape(batch * kv_heads, time * heads // kv_heads, width)


def _by_token(x: Tensor, batch: int, heads: int) -> Tensor:
    """(B * H_kv, T * shared, D) -> (B, T, H, D), a view where no copy is needed."""
    kv_heads = x.shape[0] // batch
    shared = heads // kv_heads
    x = x.view(batch, kv_heads, -1, shared, x.shape[2]).permute(0, 2, 1, 3, 4)
    return x.reshape(batch, x.shape[1], heads, x.shape[4])


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window_size: int | None,
        slopes: Slopes | None,
        scale: float,
    ) -> Tensor:
        batch, time, heads, _ = q.shape
        kv_heads = k.shape[2]
        shape = _Shape(batch, time, k.shape[1], kv_heads, heads // kv_heads, window_size)
        queries, keys, values = (
            _by_key_head(q, kv_heads, scale),
            _by_key_head(k, kv_heads),
            _by_key_head(v, kv_heads),
        )
        ctx.save_for_backward(queries, keys, values)
        ctx.shape, ctx.slopes, ctx.scale = shape, slopes, scale
        weights = _Weights(shape, queries, keys, slopes)
        out = q.new_empty(batch, time, heads, v.shape[3])
        for start, stop, first, last in shape.blocks():
            mixed = torch.bmm(weights.of(start, stop, first, last), values[:, first:last])
            out[:, start:stop] = _by_token(mixed, batch, heads)
        return out

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v = ctx.saved_tensors
        shape: _Shape = ctx.shape
        shared, heads = shape.shared, shape.kv_heads * shape.shared
        grad = _by_key_head(grad.contiguous(), shape.kv_heads)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        weights = _Weights(shape, q, k, ctx.slopes)
        memory = torch.empty_like(weights.memory)
        values = v.transpose(1, 2)
        for start, stop, first, last in shape.blocks():
            rows = slice(start * shared, stop * shared)
            w = weights.of(start, stop, first, last)
            grad_v[:, first:last] += w.transpose(1, 2) @ grad[:, rows]
            slope = torch.bmm(grad[:, rows], values[:, :, first:last], out=memory[: w.numel()].view_as(w))
            # in place: each number is read before it is written
            torch.ops.aten._softmax_backward_data.out(slope, w, -1, w.dtype, grad_input=slope)
            grad_q[:, rows] = slope @ k[:, first:last]
            grad_k[:, first:last] += slope.transpose(1, 2) @ q[:, rows]
        return (
            _by_token(grad_q.mul_(ctx.scale), shape.batch, heads),
            _by_token(grad_k, shape.batch, shape.kv_heads),
            _by_token(grad_v, shape.batch, shape.kv_heads),
            None,
            None,
            None,
        )
