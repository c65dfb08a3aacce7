"""Tasks whose splits come from one stream of random numbers, as those of MAD (arXiv:2403.17844) and safari do.

The authors draw training rows and then test rows from one generator; validation rows, which they do not have, come
after those.

torch is imported when rows are built, so that the command starts fast.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Generic, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from recallfront.models.configs.frozen import added_field
from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import SPLITS, DrawnRows, Segment, Split, SplitTask

Row = tuple[list[int], list[int]]  # inputs and labels


class StreamRows(DrawnRows):
    """Rows of one sequence length, as the authors count it: a row may have a few tokens more or less."""

    length: int = Field(ge=4, le=2**20, description="Sequence length, as the task's authors count it.")


class NoisyRows(StreamRows):
    """Rows of one sequence length and one share of noise."""

    frac_noise: float | None = added_field(
        None,
        ge=0,
        lt=1,
        description="Share of noise in these rows; null is that of the task. The recall of rows of `length: 64` and "
        "`frac_noise: 0.4` is `recall_length_64_noise_40`, in percent.",
    )

    @property
    def segment(self) -> str:
        if self.frac_noise is None:
            return super().segment
        # in percent and without a point, which stands between the task of a suite and its metric
        percent = f"{100 * self.frac_noise:.10g}".replace(".", "_")
        return f"{super().segment}_noise_{percent}"


R = TypeVar("R", bound=StreamRows)
Drawer = Callable[[R, bool], tuple[Integers, Integers]]


class StreamTask(SplitTask[R], Generic[R]):
    """A task whose rows follow from one seed for all splits."""

    seed: int = Field(
        default=12345, ge=0, lt=2**32, description="Seed of the rows, the same for every trial."
    )

    @abstractmethod
    def drawer(self) -> Drawer[R]:
        """A function that draws the next rows of the stream: (rows, whether for training) -> (inputs, labels)."""

    def build(self, split: Split) -> list[Segment]:
        return _drawn(self)[split]


class NoisyTask(StreamTask[NoisyRows]):
    """A task whose rows may hold noise."""

    noise_vocab_size: int = Field(default=0, ge=0, description="Number of tokens that appear as noise only.")
    frac_noise: float = Field(
        default=0.0, ge=0, lt=1, description="Share of noise, in rows that set none of their own."
    )

    @model_validator(mode="after")
    def _noise_has_tokens(self) -> Self:
        shares = (self.noise_of(rows) for split in SPLITS for rows in self.rows_of(split))
        most = max(self.frac_noise, *shares)
        if most and not self.noise_vocab_size:
            raise ValueError(f"noise_vocab_size=0: must be at least 1 with frac_noise={most}")
        return self

    def noise_of(self, rows: NoisyRows) -> float:
        """The share of noise in rows: their own, or else the task's."""
        return self.frac_noise if rows.frac_noise is None else rows.frac_noise


def stacked(rows: Iterable[Row]) -> tuple[Integers, Integers]:
    """Rows of one length as (inputs, labels), int64 (number of rows, tokens)."""
    pairs = np.array(list(rows), dtype=np.int64)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


@lru_cache(maxsize=1)  # the three splits are asked for one after another
def _drawn(task: StreamTask[R]) -> dict[Split, list[Segment]]:
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
