"""Window attention on a CPU: blocks of queries small enough for the cache, with the gradient written out."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.common.dropout import keeps, numbers
from recallfront.kernels.common.gradients import written_out

_BLOCK = 64  # queries at a time: fastest of 16 to 256
_KEPT = 1 << 22  # biases up to this many numbers are kept from call to call
_SAVED = 2  # times the numbers of q, k and v: so many weights are saved rather than computed again for the gradient
_TINY = 1e-30  # smaller weights are taken as 0: numbers that are not normal slow a product down tenfold

Slopes = tuple[float, ...]


def suits(q: Tensor, k: Tensor) -> bool:
    """Whether this form covers the tensors: it computes as it accumulates, and a batch has a row at least."""
    wide = q.dtype in (torch.float32, torch.float64)
    return q.device.type == "cpu" and wide and q.shape[0] > 0 and not _is_compiling()


def _is_compiling() -> bool:
    return bool(torch.compiler.is_compiling())


def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | None,
    slopes: Slopes | None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """As `window_attention_reference` without learned biases and segments.

    Memory grows with the time, not its square, but for a byte a weight where `dropout` is not 0.
    """
    out: Tensor = _BlockAttention.apply(q, k, v, window_size, slopes, scale, dropout)  # type: ignore[no-untyped-call]
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

    def saves(self, width: int) -> bool:
        """Whether the weights of all blocks are few enough, beside heads of this size, to be saved."""
        weights = sum((stop - start) * (last - first) for start, stop, first, last in self.blocks())
        return self.shared * weights <= _SAVED * width * (self.shared * self.time + 2 * self.keys)

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
    """Softmax weights of one block of queries after the other."""

    def __init__(self, shape: _Shape, q: Tensor, k: Tensor, slopes: Slopes | None, scale: float) -> None:
        self.shape, self.q, self.k, self.scale = shape, q, k.transpose(1, 2), scale
        self.decays = slopes is not None
        heads = 1 if slopes is None else len(slopes)
        make = _kept_bias if heads * _BLOCK * shape.widest <= _KEPT else _bias
        self.bias = make(shape.widest, shape.window_size, slopes, shape.shared, q.dtype)
        self.memory = q.new_empty(0)

    def of(self, start: int, stop: int, first: int, last: int, *, alone: bool = False) -> Tensor:
        """Weights (rows, queries, keys) of the queries from `start` on the keys from `first`.

        alone: in memory of their own; others are overwritten by those of the next block.
        """
        s, count = self.shape, stop - start
        size = (s.batch, s.kv_heads, count, s.shared, last - first)
        if alone:
            weights = self.q.new_empty(size)
        else:
            if not self.memory.numel():
                self.memory = self.q.new_empty(s.rows * min(_BLOCK, s.time) * s.shared * s.widest)
            weights = self.memory[: math.prod(size)].view(size)
        weights.copy_(self.bias[:, _BLOCK - count :, :, s.widest - (last - first) :])
        weights = weights.view(s.rows, count * s.shared, last - first)
        weights.baddbmm_(
            self.q[:, start * s.shared : stop * s.shared], self.k[:, :, first:last], alpha=self.scale
        )
        torch.softmax(weights, -1, out=weights)
        return torch.threshold_(weights, _TINY, 0.0) if self.decays else weights


def _product(a: Tensor, b: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
    """factor * a @ b of matrices in a batch, in `out` if it is given."""
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2]) if out is None else out
    return out.baddbmm_(a, b, beta=0, alpha=factor)


def _by_key_head(x: Tensor, kv_heads: int) -> Tensor:
    """(B, T, H, D) -> (B * H_kv, T * H / H_kv, D), a view where no copy is needed."""
    batch, time, heads, width = x.shape
    x = x.reshape(batch, time, kv_heads, heads // kv_heads, width).permute(0, 2, 1, 3, 4)
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
        dropout: float,
    ) -> Tensor:
        batch, time, heads, _ = q.shape
        kv_heads = k.shape[2]
        shape = _Shape(batch, time, k.shape[1], kv_heads, heads // kv_heads, window_size)
        queries, keys, values = (_by_key_head(x, kv_heads) for x in (q, k, v))
        weights = _Weights(shape, queries, keys, slopes, scale)
        saves = any(ctx.needs_input_grad) and shape.saves(q.shape[3])
        growth, saved, masks = 1.0, [], []
        blocks, out = shape.blocks(), q.new_empty(batch, time, heads, v.shape[3])
        for start, stop, first, last in blocks:
            w = weights.of(start, stop, first, last, alone=saves)
            if saves:
                saved.append(w)
            if dropout:
                kept, growth = keeps(tuple(w.shape), dropout)
                masks.append(kept)
                w = w * numbers(kept, w.dtype)
            if len(blocks) == 1 and kv_heads == 1:
                _product(w, values[:, first:last], growth, out=out.view(batch, time * heads, -1))
            else:
                out[:, start:stop] = _by_token(_product(w, values[:, first:last], growth), batch, heads)
        ctx.save_for_backward(queries, keys, values, *saved, *masks)
        ctx.shape, ctx.slopes, ctx.scale, ctx.growth, ctx.saved = shape, slopes, scale, growth, len(saved)
        return out

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        q, k, v, *others = ctx.saved_tensors
        saved, masks = others[: ctx.saved], others[ctx.saved :]
        shape: _Shape = ctx.shape
        shared, blocks = shape.shared, shape.blocks()
        grad = _by_key_head(grad, shape.kv_heads)
        weights = _Weights(shape, q, k, ctx.slopes, ctx.scale)
        values = v.transpose(1, 2)
        of_queries, of_keys, of_values = [], _Sum(k, blocks), _Sum(v, blocks)
        for number, (start, stop, first, last) in enumerate(blocks):
            rows = slice(start * shared, stop * shared)
            w = saved[number] if saved else weights.of(start, stop, first, last)
            other = torch.empty_like(w)
            kept = numbers(masks[number], w.dtype) if masks else None
            used = w if kept is None else torch.mul(w, kept, out=other)
            of_values.add(_product(used.transpose(1, 2), grad[:, rows], ctx.growth), first, last)
            slope = _product(grad[:, rows], values[:, :, first:last], ctx.growth, out=other)
            if kept is not None:
                slope.mul_(kept)
            # in place: each number is read before it is written
            torch.ops.aten._softmax_backward_data.out(slope, w, -1, w.dtype, grad_input=slope)
            of_queries.append(_product(slope, k[:, first:last], ctx.scale))
            of_keys.add(_product(slope.transpose(1, 2), q[:, rows], ctx.scale), first, last)
        grad_q = of_queries[0] if len(of_queries) == 1 else torch.cat(of_queries, 1)
        return (
            _by_token(grad_q, shape.batch, shape.kv_heads * shared),
            _by_token(of_keys.total, shape.batch, shape.kv_heads),
            _by_token(of_values.total, shape.batch, shape.kv_heads),
            None,
            None,
            None,
            None,
        )


class _Sum:
    """What blocks add to the gradient of keys or values (rows, S, D), each to those it sees."""

    def __init__(self, like: Tensor, blocks: list[tuple[int, int, int, int]]) -> None:
        alone = len(blocks) == 1 and blocks[0][2:] == (0, like.shape[1])
        self.total = like.new_empty(0) if alone else like.new_zeros(like.shape)
        self.alone = alone

    def add(self, part: Tensor, first: int, last: int) -> None:
        if self.alone:
            self.total = part
        else:
            self.total[:, first:last] += part
