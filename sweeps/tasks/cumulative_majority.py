"""Cumulative majority (zoology): at each bit it is asked whether at least half of the bits so far are ones.

Rows equal those of zoology's generator.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import DrawnRows, DrawnTask


class CumulativeMajority(DrawnTask[DrawnRows]):
    """Whether half of the bits so far are ones, at each bit."""

    name: Literal["cumulative_majority"] = "cumulative_majority"
    vocab_size: int = Field(default=3, ge=3, le=2**24, description="Number of tokens; two are used.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    def draw(self, rows: DrawnRows, seed: int) -> tuple[Integers, Integers]:
        return cumulative_majority(num_examples=rows.examples, input_seq_len=rows.length, seed=seed)


def cumulative_majority(*, num_examples: int, input_seq_len: int, seed: int) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, input_seq_len)."""
    inputs = np.random.RandomState(seed).randint(0, 2, size=(num_examples, input_seq_len)).astype(np.int64)
    return inputs, ((2 * inputs - 1).cumsum(axis=1) >= 0).astype(np.int64)
