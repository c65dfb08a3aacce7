"""Cumulative parity (zoology): at each bit the sum of the bits so far modulo 2 is asked for.

Rows equal those of zoology's generator, which are one token shorter than their length says.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import DrawnRows, DrawnTask


class ParityRows(DrawnRows):
    """Rows of one length."""

    length: int = Field(ge=2, le=2**20, description="Tokens of a row and one more, as zoology counts them.")


class CumulativeParity(DrawnTask[ParityRows]):
    """The parity of the bits so far, at each bit."""

    name: Literal["cumulative_parity"] = "cumulative_parity"
    vocab_size: int = Field(default=3, ge=3, le=2**24, description="Number of tokens; two are used.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    def draw(self, rows: ParityRows, seed: int) -> tuple[Integers, Integers]:
        return cumulative_parity(num_examples=rows.examples, input_seq_len=rows.length, seed=seed)


def cumulative_parity(*, num_examples: int, input_seq_len: int, seed: int) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, input_seq_len - 1)."""
    random = np.random.RandomState(seed)
    rows = [random.randint(0, 2, size=input_seq_len - 1) for _ in range(num_examples)]
    inputs = np.array(rows, dtype=np.int64).reshape(num_examples, input_seq_len - 1)
    return inputs, inputs.cumsum(axis=1) % 2
