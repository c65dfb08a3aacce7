"""Majority (zoology): random bits, then a token at which it is asked whether more than half are ones.

Rows equal those of zoology's generator.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, AskingRows, DrawnTask


class Majority(DrawnTask[AskingRows]):
    """Whether most of a row's bits are ones."""

    name: Literal["majority"] = "majority"
    vocab_size: int = Field(default=3, ge=3, le=2**24, description="Number of tokens; three are used.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    def draw(self, rows: AskingRows, seed: int) -> tuple[Integers, Integers]:
        return majority(num_examples=rows.examples, input_seq_len=rows.length, seed=seed)


def majority(*, num_examples: int, input_seq_len: int, seed: int) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, input_seq_len); the label stands at the last token, a 2."""
    random = np.random.RandomState(seed)
    bits = np.array(
        [random.randint(0, 2, size=input_seq_len - 1) for _ in range(num_examples)], dtype=np.int64
    )
    inputs = np.concatenate([bits, np.full((num_examples, 1), 2)], axis=1)
    labels = np.full_like(inputs, IGNORED)
    labels[:, -1] = 2 * bits.sum(axis=1) > input_seq_len - 1
    return inputs, labels
