"""Tasks whose splits come from one stream of random numbers, as those of MAD (arXiv:2403.17844) and safari do.

The authors draw training rows and then test rows from one generator; validation rows, which they do not have, come
after those.

torch is imported when rows are built, so that the command starts fast.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import DrawnRows, Segment, Split, SplitTask

Drawer = Callable[["StreamRows", bool], tuple[Integers, Integers]]

Row = tuple[list[int], list[int]]  # inputs and labels


class StreamRows(DrawnRows):
    """Rows of one sequence length, as the authors count it: a row may have a few tokens more or less."""

    length: int = Field(ge=4, le=2**20, description="Sequence length, as the task's authors count it.")


class StreamTask(SplitTask[StreamRows]):
    """A task whose rows follow from one seed for all splits."""

    seed: int = Field(
        default=12345, ge=0, lt=2**32, description="Seed of the rows, the same for every trial."
    )

    @abstractmethod
    def drawer(self) -> Drawer:
        """A function that draws the next rows of the stream: (rows, whether for training) -> (inputs, labels)."""

    def build(self, split: Split) -> list[Segment]:
        return _drawn(self)[split]


def stacked(rows: Iterable[Row]) -> tuple[Integers, Integers]:
    """Rows of one length as (inputs, labels), int64 (number of rows, tokens)."""
    pairs = np.array(list(rows), dtype=np.int64)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


@lru_cache(maxsize=1)  # the three splits are asked for one after another
def _drawn(task: StreamTask) -> dict[Split, list[Segment]]:
    import torch

    drawer = task.drawer()
    found: dict[Split, list[Segment]] = {}
    order: tuple[Split, ...] = ("train", "test", "validation")
    for split in order:
        found[split] = []
        for rows in task.rows_of(split):
            inputs, labels = drawer(rows, split == "train")
            found[split].append(Segment(rows.segment, torch.from_numpy(inputs), torch.from_numpy(labels)))
    return found
