"""Rings: caches (B, H, S, D) in which token p lies in slot p % S: nothing moves when they are full."""

import torch
from torch import Tensor

from recallfront.models.parts.state import Block


def _newest(lengths: Tensor, slots: int) -> Tensor:
    """The newest token that lies in each slot (B, S) of rows that have seen `lengths` (B) tokens; negative:
    none.
    """
    last = lengths[:, None] - 1
    return last - (last - torch.arange(slots, device=lengths.device)) % slots


def ring_tokens(lengths: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Which token lies in each slot (B, S), and whether one does."""
    tokens = _newest(lengths, slots)
    return tokens, tokens >= 0


def ring_last(ring: Tensor, block: Block, count: int) -> tuple[Tensor, Tensor]:
    """The last `count` entries before a block, oldest first (B, H, count, D), and which of them are there."""
    slots = ring.shape[2]

    def places() -> tuple[Tensor, Tensor]:
        tokens = block.offsets[:, None] - count + torch.arange(count, device=ring.device)
        return (tokens % slots)[:, None, :, None], tokens >= 0

    index, there = block.once(("last", slots, count), places)
    return ring.gather(2, index.expand(-1, ring.shape[1], -1, ring.shape[3])), there


def ring_write(ring: Tensor, new: Tensor, block: Block) -> Tensor:
    """The ring after a block whose entries are `new` (B, H, T, D)."""
    slots = ring.shape[2]

    def places() -> tuple[Tensor, Tensor]:
        place = (_newest(block.ends, slots) - block.offsets[:, None])[:, None, :, None]
        return place.clamp(0, block.time - 1), place >= 0  # in the block; negative: from before

    index, there = block.once(("write", slots), places)
    taken = new.gather(2, index.expand(-1, ring.shape[1], -1, ring.shape[3]))
    return torch.where(there, taken.to(ring.dtype), ring)
