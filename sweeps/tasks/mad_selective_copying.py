"""MAD's selective copying (arXiv:2403.17844): tokens among blanks, a marker, then blanks in which to repeat them.

Rows equal those of the authors' generator: the data tokens follow from one generator and the places of the blanks from
a legacy stream of the same seed. No blank ever follows the last data token.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.stream import Drawer, Row, StreamRows, StreamTask, stacked
from recallfront.sweeps.tasks.base import IGNORED


class MADSelectiveCopying(StreamTask[StreamRows]):
    """MAD's selective copying."""

    name: Literal["mad_selective_copying"] = "mad_selective_copying"
    vocab_size: int = Field(
        default=16, ge=3, le=2**24, description="Number of tokens, blank and marker included."
    )
    num_tokens_to_copy: int = Field(default=16, ge=1, description="Data tokens of a row.")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        for rows in (*self.train, *self.validation, *self.test):
            if rows.length < 2 * self.num_tokens_to_copy + 1:
                raise ValueError(
                    f"length={rows.length}: must be at least 2 * num_tokens_to_copy + 1 = "
                    f"{2 * self.num_tokens_to_copy + 1}"
                )
        return self

    def drawer(self) -> Drawer[StreamRows]:
        rng, legacy = np.random.default_rng(self.seed), np.random.RandomState(self.seed)
        return lambda rows, training: stacked(
            selective_copying(
                rng,
                legacy,
                vocab_size=self.vocab_size,
                seq_len=rows.length,
                num_tokens_to_copy=self.num_tokens_to_copy,
            )
            for _ in range(rows.examples)
        )


def selective_copying(
    rng: np.random.Generator,
    legacy: np.random.RandomState,
    *,
    vocab_size: int,
    seq_len: int,
    num_tokens_to_copy: int,
) -> Row:
    """One row: (inputs, labels) of `seq_len` tokens."""
    blank, marker, count = vocab_size - 2, vocab_size - 1, num_tokens_to_copy
    data = rng.integers(0, vocab_size - 2, size=count)
    places = legacy.randint(0, count, seq_len - 2 * count - 1)
    context = np.insert(data, places, blank).tolist()
    labels = [IGNORED] * (seq_len - count) + data.tolist()
    return [*context, marker, *([blank] * count)], labels
