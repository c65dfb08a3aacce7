"""How window attention's kernels cut a call up. Needs no Triton.

Everything follows from shapes and types, nothing from timing: a rerun computes the same bits.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

TILE = 64  # tokens whose segments are summed up by their least and largest
SHORT = 256  # a window of up to so many keys takes the smaller blocks
_FILLED = 2 * 132  # programs that keep a chip of 132 multiprocessors (H100, H200) busy


@dataclass(frozen=True)
class WindowBlocks:
    """Sizes that a kernel works in: queries and keys a block, warps, stages of loads under way."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class WindowPlan:
    """Blocks of the forward pass, of the queries' gradients, and of the keys' and values' gradients."""

    forward: WindowBlocks
    queries: WindowBlocks
    keys: WindowBlocks


_SINGLE = {  # float32, without tensor cores: each thread holds its share of both factors of a product
    64: WindowPlan(WindowBlocks(32, 32, 4, 2), WindowBlocks(32, 32, 4, 2), WindowBlocks(16, 32, 4, 2)),
    128: WindowPlan(WindowBlocks(32, 16, 4, 2), WindowBlocks(32, 16, 4, 1), WindowBlocks(16, 16, 4, 1)),
    256: WindowPlan(WindowBlocks(16, 16, 4, 1), WindowBlocks(16, 16, 4, 1), WindowBlocks(16, 16, 8, 1)),
}
_SHORT_WINDOW = {
    64: WindowPlan(WindowBlocks(64, 64, 4, 3), WindowBlocks(64, 64, 4, 3), WindowBlocks(32, 64, 4, 3)),
    128: WindowPlan(WindowBlocks(64, 64, 4, 2), WindowBlocks(64, 32, 8, 3), WindowBlocks(32, 64, 8, 3)),
    256: WindowPlan(WindowBlocks(64, 32, 8, 3), WindowBlocks(64, 32, 8, 2), WindowBlocks(32, 32, 8, 2)),
}
_LONG_WINDOW = {
    64: WindowPlan(WindowBlocks(128, 64, 8, 3), WindowBlocks(128, 64, 8, 2), WindowBlocks(32, 128, 8, 3)),
    128: WindowPlan(WindowBlocks(128, 32, 8, 4), WindowBlocks(128, 32, 8, 3), WindowBlocks(32, 64, 8, 3)),
    256: WindowPlan(WindowBlocks(64, 32, 8, 3), WindowBlocks(64, 32, 8, 2), WindowBlocks(32, 32, 8, 2)),
}
_PACKED_FORWARD = {
    64: WindowBlocks(128, 64, 8, 3),
    128: WindowBlocks(128, 64, 8, 2),
    256: WindowBlocks(64, 32, 8, 3),
}
_PLAIN_FORWARD = {
    64: WindowBlocks(128, 64, 4, 3),
    128: WindowBlocks(128, 64, 8, 3),
    256: WindowBlocks(64, 32, 8, 3),
}


def pad(width: int) -> int:
    """The power of two, 16 at least, that a block of this width has."""
    return max(16, 1 << (width - 1).bit_length())


def plan(
    width: int, value: int, dtype: torch.dtype, window_size: int | None, tilted: bool, packed: bool
) -> WindowPlan:
    """Blocks by the wider of the two head sizes, the type, and what the masks leave of a block.

    Larger blocks read the keys less often; smaller ones waste less of a short window. No choice spills
    registers on sm_80 or sm_90 (`make kernels-report`).
    """
    widest = max(pad(width), pad(value), 64)
    if dtype == torch.float32:
        return _SINGLE[widest]
    if window_size is not None and window_size <= SHORT:
        return _SHORT_WINDOW[widest]
    chosen = _LONG_WINDOW[widest]
    if packed:
        return replace(chosen, forward=_PACKED_FORWARD[widest])
    if window_size is None and not tilted:
        return replace(chosen, forward=_PLAIN_FORWARD[widest])
    return chosen


def key_shares(programs: int, group: int) -> int:
    """Programs that share the query heads of one key head and block, so that few key heads still fill the chip.

    Each leaves a sum of its own, which costs memory: only as many as are needed, and a divisor of the group.
    """
    divisors = [shares for shares in range(1, group + 1) if group % shares == 0]
    return next((shares for shares in divisors if programs * shares >= _FILLED), group)


def splits(programs: int, slots: int, group: int) -> tuple[int, int]:
    """How many programs share the ring of one key head in a step, and how many slots each has (a multiple of 64).

    Enough to fill the chip twice, but with enough slots each that what they leave behind for the join is a few
    hundredths of what they read.
    """
    wanted = -(-2 * _FILLED // max(programs, 1))
    count = max(1, min(wanted, slots // max(256, 64 * group), 64))
    share = -(-slots // (64 * count)) * 64
    return -(-slots // share), share


@dataclass(frozen=True)
class StepBlocks:
    """Slots of a ring that a step loads at once, warps, stages of loads under way."""

    slots: int
    warps: int
    stages: int


def step_blocks(width: int, value: int, dtype: torch.dtype, group: int) -> StepBlocks:
    widest = max(width, value)
    if dtype == torch.float32 and group > 1:  # a product without tensor cores
        return StepBlocks(16, 8, 2 if widest <= 128 else 1)
    return StepBlocks(64 if widest <= 128 else 32, 4, 3)


def _blocks_of(segments: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Least and largest segment (B, blocks) of every block of `size` tokens."""
    count = -(-segments.shape[1] // size)
    padding = segments[:, -1:].expand(-1, count * size - segments.shape[1])
    blocks = torch.cat([segments, padding], 1).view(-1, count, size)
    return blocks.amin(2), blocks.amax(2)


def first_keys(segments: Tensor, time: int, queries: int) -> Tensor:
    """No key before this one is of a segment of a block of `queries` queries: (B, blocks), int32."""
    least, largest = _blocks_of(segments[:, segments.shape[1] - time :], queries)
    key_least, key_largest = _blocks_of(segments, TILE)
    meet = (least[:, :, None] <= key_largest[:, None]) & (key_least[:, None] <= largest[:, :, None])
    return meet.int().argmax(2).int() * TILE


def last_queries(segments: Tensor, time: int, keys: int) -> Tensor:
    """No query from this one on is of a segment of a block of `keys` keys: (B, blocks), int32."""
    least, largest = _blocks_of(segments[:, segments.shape[1] - time :], TILE)
    key_least, key_largest = _blocks_of(segments, keys)
    meet = (least[:, None] <= key_largest[:, :, None]) & (key_least[:, :, None] <= largest[:, None])
    last = meet.shape[2] - meet.flip(2).int().argmax(2)
    return (last * TILE * meet.any(2)).int()
