"""What the scan kernels share: tiles whose rows are scanned in groups, and a state handed from program to program.

A tile is GROUPS x ROWS tokens of WIDTH channels. A thread holds the ROWS tokens of a group for some channels,
and steps through them by itself; only what the groups come to is scanned across threads, which costs ten times
as many instructions a number.

The tiles of a block of channels are walked by one program where the blocks fill the chip. Where they do not,
every tile has a program of its own, and these form a chain: each finds out what its tile does to a state,
waits for the state that its predecessor leaves, and hands on. Inputs are read and outputs written once either
way, and the order of the additions is fixed: the same bits every time.

Programs take tickets, so that a predecessor has always been started before; the GPU promises no other order.
A handed-on state is one 64-bit word, the float above a mark that it is there: it cannot be seen half-written,
so no fence is needed.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

FILLED = 1024  # programs of one warp that fill the largest chip; a fixed number: results depend on no chip
LONGEST_STRIDE = 2**22  # within a tile places are 32-bit numbers


@dataclass(frozen=True)
class ScanPlan:
    """How a scan is cut: tiles of groups x rows tokens and `width` channels, walked or chained.

    A tile is the work of one warp, so no thread waits for another's. It loads all its tokens at once and then
    computes; with eight warps on a multiprocessor one that loads is hidden by those that compute, at fewer
    instructions than a pipeline through shared memory takes.
    """

    rows: int
    chained: bool
    groups: int = 8
    width: int = 32

    @property
    def time(self) -> int:
        return self.groups * self.rows

    def options(self) -> dict[str, int]:
        """What a launch is told of it."""
        sizes = {"GROUPS": self.groups, "ROWS": self.rows, "WIDTH": self.width}
        return {"CHAINED": self.chained, **sizes, "num_warps": 1, "num_stages": 1}


def chain_of(cut: ScanPlan, batch: int, time: int, width: int, like: Tensor) -> tuple[Tensor, Tensor, int]:
    """The words of a chain, its ticket, and the tiles that have a program of their own (1 where one walks)."""
    tiles = triton.cdiv(time, cut.time) if cut.chained else 1
    words = like.new_zeros(tiles * batch * width + 1 if cut.chained else 1, dtype=torch.int64)
    return words[1:], words[:1], tiles


def rows_together(x: Tensor) -> Tensor:
    """`x` (B, T, ...) or (B, D), copied where entries of a row do not lie together or rows are too far apart."""
    near = all(stride < LONGEST_STRIDE for stride in x.stride()[1:])
    return x if x.stride(-1) == 1 and near else x.contiguous()


@triton.jit
def compose(a_first, b_first, a_second, b_second):
    """The step h -> a h + b that stands for two steps, the first one first."""
    return a_first * a_second, a_second * b_first + b_second


@triton.jit
def row_of(tile, row: tl.constexpr, ROWS: tl.constexpr):
    """Row `row` of a tile (ROWS, columns)."""
    return tl.sum(tl.where((tl.arange(0, ROWS) == row)[:, None], tile, 0.0), axis=0)


@triton.jit
def enter(decay, total, carry, word_ptr, word_stride, tile, tiles, inside, CHAINED, REVERSE, GROUPS, WIDTH):
    """The states that enter each group (GROUPS, WIDTH), and the state that the tile leaves (WIDTH).

    A group makes decay * h + total of a state h. carry (WIDTH) enters the tile; in a chain it is received,
    but for the first tile, from the words `word_stride` before those of this tile, `word_ptr`.
    """
    last: tl.constexpr = 0 if REVERSE else GROUPS - 1
    decay, total = tl.associative_scan((decay, total), 0, compose, reverse=REVERSE)
    if CHAINED:
        leaving, leaving_decay = row_of(total, last, GROUPS), row_of(decay, last, GROUPS)
        if tile > 0:
            carry = _receive(word_ptr - word_stride, inside)
        leaving = leaving_decay * carry + leaving
        if tile + 1 < tiles:
            _hand_on(word_ptr, leaving, inside)
        state = decay * carry[None, :] + total
    else:
        state = decay * carry[None, :] + total
        leaving = row_of(state, last, GROUPS)
    group = tl.arange(0, GROUPS)
    if REVERSE:
        before = tl.minimum(group + 1, GROUPS - 1)
    else:
        before = tl.maximum(group - 1, 0)
    entering = tl.gather(state, tl.broadcast_to(before[:, None], [GROUPS, WIDTH]), 0)
    return tl.where((before == group)[:, None], carry[None, :], entering), leaving


@triton.jit
def _receive(word_ptr, inside):
    """Wait for the states that a predecessor hands on."""
    word = tl.load(word_ptr, mask=inside, other=1, volatile=True)
    while tl.min(word & 1, axis=0) == 0:
        word = tl.load(word_ptr, mask=inside, other=1, volatile=True)
    return (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _hand_on(word_ptr, state, inside):
    """Give the states to the successor. An exchange, because it is a single write that all programs see."""
    word = (state.to(tl.int32, bitcast=True).to(tl.int64) << 32) | 1
    tl.atomic_xchg(word_ptr, word, mask=inside, sem="relaxed")
