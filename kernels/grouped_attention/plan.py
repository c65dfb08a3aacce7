"""How grouped attention's kernels cut a call up. Needs no Triton.

Everything follows from shapes, types and the kind of chip, nothing from timing: a rerun computes the same bits.
"""

from dataclasses import dataclass

import torch

# head sizes up to which what a program works with fits its registers
WIDEST, WIDEST_BACKWARD, WIDEST_FLOAT32 = 128, 64, 64
FURTHEST = 32  # tokens back that the convolution may reach: one piece of a tile
# programs of eight warps that fill 132 multiprocessors (H100, H200): registers leave no room for two
_CHIP = 128
TAPS_STRETCH = 1024  # tokens of one program of `grouped_taps`


@dataclass(frozen=True)
class GroupedBlocks:
    """Tokens a tile, keys (or queries) of it at once, columns of the values a program, warps, stages of loads."""

    rows: int
    piece: int
    values: int
    warps: int
    stages: int


@dataclass(frozen=True)
class GroupedPlan:
    """How tokens go to programs.

    Groups shorter than a tile: tiles of `span` tokens, as many whole groups as fit (`single`: one). They go to
    programs by stretches of `stretch` tokens; a program carries the sum of the groups before from tile to tile, or,
    not `carried`, every tile is a stretch and finds that sum in memory. A longer group is a stretch of `parts` tiles
    with a program each.
    """

    rows: int
    group: int
    span: int
    parts: int
    stretch: int
    stretches: int
    carried: bool

    @property
    def long(self) -> bool:
        return self.parts > 1

    @property
    def single(self) -> bool:
        return self.parts == 1 and self.span == self.group

    @property
    def programs(self) -> int:
        """Programs for one head."""
        return self.stretches * self.parts


def pad(width: int) -> int:
    """The power of two, 16 at least, that a block of this width has."""
    return max(16, 1 << (width - 1).bit_length())


def cut(rows: int, time: int, group: int, *, wanted: int = 1, carried: bool = True) -> GroupedPlan:
    """Cut `time` tokens into tiles of up to `rows`, and into at least `wanted` stretches if that is worth while."""
    group = min(group, time)
    parts = -(-group // rows)
    if parts > 1:
        return GroupedPlan(rows, group, rows, parts, group, -(-time // group), False)
    span = rows // group * group
    tiles = -(-time // span)
    stretches = tiles
    if carried:
        # another stretch costs another reading of keys and values: none shorter than four tiles
        stretches = 1
        while stretches < wanted and tiles >= 8 * stretches:
            stretches *= 2
    stretch = -(-tiles // stretches) * span
    return GroupedPlan(rows, group, span, 1, stretch, -(-time // stretch), carried)


def forward_blocks(lines: int, width: int, dtype: torch.dtype) -> GroupedBlocks:
    """Blocks of the forward pass of `lines` heads (over the whole batch)."""
    columns = pad(width)
    if dtype == torch.float32:
        return GroupedBlocks(16, 32, min(columns, 32), 8, 1)
    # several blocks of values read the same queries and keys: only where there are few heads to fill the chip
    values = min(columns, 64)
    while values > 32 and lines * (columns // values) < 2 * _CHIP:
        values //= 2
    return GroupedBlocks(64, 32, values, 4 if columns <= 64 else 8, 2)


def forward_plan(blocks: GroupedBlocks, lines: int, time: int, width: int, group: int) -> GroupedPlan:
    programs = lines * -(-width // blocks.values)
    return cut(blocks.rows, time, group, wanted=-(-_CHIP * 8 // blocks.warps // programs))


@dataclass(frozen=True)
class Backward:
    """Blocks of the backward passes: queries, keys, values (None: in the keys' pass), taps, and sums over stretches."""

    plan: GroupedPlan
    queries: GroupedBlocks
    keys: GroupedBlocks
    values: GroupedBlocks | None
    taps: GroupedBlocks
    sums: GroupedBlocks


def backward_plan(
    lines: int, time: int, width: int, group: int, dtype: torch.dtype, hopper: bool
) -> Backward:
    """The backward pass of `lines` heads. No choice spills registers on the chips that it is for.

    A chip before Hopper multiplies out of registers, and float32 is multiplied there everywhere: neither leaves room
    for keys and values in one, nor float32, float16 and groups of several tiles for the state to be carried along.
    Several groups in a tile need more masks, and those registers; float16 needs them to keep weights in range: keys
    are spread over more warps there, and queries meet all keys of a tile at once.
    """
    columns = pad(width)
    if dtype == torch.float32:
        narrow, values = GroupedBlocks(16, 16, columns, 8, 1), GroupedBlocks(16, 32, columns, 8, 2)
        taps, sums = GroupedBlocks(32, 32, columns, 8, 1), GroupedBlocks(16, 16, min(columns, 32), 8, 1)
        return Backward(cut(16, time, group, carried=False), narrow, narrow, values, taps, sums)
    taps, sums = GroupedBlocks(128, 32, columns, 8, 2), GroupedBlocks(64, 32, columns, 4, 2)
    wanted = -(-_CHIP // lines)
    if not hopper and group <= 64 and dtype == torch.bfloat16:
        queries, keys = (
            GroupedBlocks(64, 16, columns, 4 if group > 32 else 8, 1),
            GroupedBlocks(64, 16, columns, 4, 1),
        )
        plan = cut(64, time, group, wanted=wanted)
        return Backward(plan, queries, keys, GroupedBlocks(64, 32, columns, 4, 1), taps, sums)
    if not hopper:
        blocks = GroupedBlocks(32, 32, columns, 4, 1)
        return Backward(cut(32, time, group, carried=False), blocks, blocks, blocks, taps, sums)
    plan = cut(64, time, group, wanted=wanted)
    several = not (plan.single or plan.long)
    queries = GroupedBlocks(64, 64, columns, 4, 1) if several else GroupedBlocks(64, 32, columns, 4, 2)
    keys = GroupedBlocks(64, 32, columns, 8 if several or dtype == torch.float16 else 4, 2)
    return Backward(plan, queries, keys, None, taps, sums)


def step_blocks(lines: int, width: int) -> GroupedBlocks:
    """Blocks of a decoding step: every block of columns reads all keys, so one where heads fill the chip."""
    columns = pad(width)
    return GroupedBlocks(1, 32, columns if lines >= 2 * _CHIP else min(columns, 32), 4, 2)


def tree_blocks(lines: int, nodes: int, width: int, dtype: torch.dtype) -> GroupedBlocks:
    """Blocks of a draft tree: small ones fill the chip with few heads; with many, few programs read each state."""
    columns = pad(width)
    values = min(columns, 32)
    crowded = nodes > 16 and lines * (columns // values) >= _CHIP
    if crowded and columns <= 64 and dtype != torch.float32:
        return GroupedBlocks(64, 32, values, 8, 1)
    return GroupedBlocks(16, 32, values, 4, 1)
