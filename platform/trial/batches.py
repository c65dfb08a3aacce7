"""Which rows a training step sees: a function of seed and step alone, so that a resumed trial sees the same."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recallfront.sweeps.tasks.base import Segment


class Order(NamedTuple):
    """In which order rows are trained on, and in which batches."""

    batch_size: int
    given: bool = False  # segments and rows in their own order; rows that fill no batch make a smaller one
    multiple: int = 1  # what the rows of a batch are a multiple of, as the workers of a trial share them

    def epoch(self, segments: list[Segment]) -> int:
        """Batches of one epoch."""
        return sum(len(self.sizes(len(inputs))) for _, inputs, _ in segments)

    def sizes(self, rows: int) -> list[int]:
        """The batches that so many rows make."""
        whole = [self.batch_size] * max(1, rows // self.batch_size)
        rest = rows % self.batch_size // self.multiple * self.multiple
        return [*whole, rest] if self.given and rest and rows > self.batch_size else whole


def training_batches(
    segments: list[Segment], order: Order, *, seed: int, first_step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (inputs, labels), each (batch_size, T) and of one segment, from `first_step` on and without end.

    Every epoch shuffles the rows within each segment and the order of all batches, unless the order is given. Rows
    that fill no whole batch are then left out of that epoch; a segment smaller than a batch gives one batch in which
    its rows repeat.
    """
    epoch, skip = divmod(first_step, order.epoch(segments))
    while True:
        generator = None if order.given else torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        yield from _epoch(segments, order, generator, skip)
        epoch, skip = epoch + 1, 0


def _epoch(
    segments: list[Segment], order: Order, generator: torch.Generator | None, skip: int
) -> Iterator[tuple[Tensor, Tensor]]:
    batches: list[tuple[int, Tensor]] = []
    for index, (_, inputs, _) in enumerate(segments):
        rows = _places(len(inputs), generator)
        if len(rows) < order.batch_size:
            rows = rows[torch.arange(order.batch_size) % len(rows)]
        sizes = order.sizes(len(inputs))
        batches.extend((index, part) for part in rows[: sum(sizes)].split(sizes))
    for at in _places(len(batches), generator).tolist()[skip:]:
        index, part = batches[at]
        _, inputs, labels = segments[index]
        yield inputs[part], labels[part]


def _places(count: int, generator: torch.Generator | None) -> Tensor:
    return torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
