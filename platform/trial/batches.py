"""Which rows a training step sees: a function of seed and step alone, so that a resumed trial sees the same."""

from collections.abc import Iterator

import torch
from torch import Tensor

from recallfront.sweeps.tasks.base import Segment


def training_batches(
    segments: list[Segment], *, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (inputs, labels), each (batch_size, T) and of one segment, from `first_step` on and without end.

    Every epoch shuffles the rows within each segment and the order of all batches. Rows that fill no whole batch are
    left out of that epoch; a segment smaller than a batch gives one batch in which its rows repeat.
    """
    per_epoch = sum(max(1, len(inputs) // batch_size) for _, inputs, _ in segments)
    epoch, skip = divmod(first_step, per_epoch)
    while True:
        yield from _epoch(segments, batch_size, torch.Generator().manual_seed(seed * 1_000_003 + epoch), skip)
        epoch, skip = epoch + 1, 0


def _epoch(
    segments: list[Segment], batch_size: int, generator: torch.Generator, skip: int
) -> Iterator[tuple[Tensor, Tensor]]:
    batches: list[tuple[int, Tensor]] = []
    for index, (_, inputs, _) in enumerate(segments):
        rows = torch.randperm(len(inputs), generator=generator)
        if len(rows) < batch_size:
            rows = rows[torch.arange(batch_size) % len(rows)]
        whole = len(rows) // batch_size * batch_size
        batches.extend((index, part) for part in rows[:whole].split(batch_size))
    for at in torch.randperm(len(batches), generator=generator).tolist()[skip:]:
        index, part = batches[at]
        _, inputs, labels = segments[index]
        yield inputs[part], labels[part]
