"""Associative recall as in safari (H3, arXiv:2212.14052): key-value pairs with repetition, then one key to be answered.

Rows equal those of the authors' generator; see `sweeps/safari.py` for how rows of all splits come from one generator.
"""

import itertools
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.safari import SafariTask, Vocabulary


class SafariAssociativeRecall(SafariTask):
    """The value of a key at the end of a row."""

    name: Literal["safari_associative_recall"] = "safari_associative_recall"
    num_keys: int = Field(default=1, ge=1, le=8, description="Tokens of a key.")
    allow_dot: bool = Field(
        default=False,
        description="Whether a key that the row does not have may be asked for; a dot answers it.",
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if ((self.vocab_size - 2) // 2) ** self.num_keys > 10**6:
            raise ValueError(f"num_keys={self.num_keys}: gives more than 1,000,000 keys; must be less")
        for rows in (*self.train, *self.validation, *self.test):
            if rows.length <= self.num_keys:
                raise ValueError(f"length={rows.length}: must be above num_keys={self.num_keys}")
        return self

    @property
    def answer_length(self) -> int:
        return 1

    def row(self, rng: np.random.Generator, length: int) -> list[int]:
        return associative_recall(
            rng, Vocabulary(self.vocab_size), length=length, num_keys=self.num_keys, allow_dot=self.allow_dot
        )

    def possible_rows(self, length: int, enough: int) -> int:
        ordinary = self.vocab_size - 2
        keys, values = (ordinary // 2) ** self.num_keys, ordinary - ordinary // 2
        shown = {0: 1}  # keys that are shown -> in how many ways, their values included
        found = 0
        for _ in range(length // (self.num_keys + 1)):
            longer: dict[int, int] = {}
            for number, ways in shown.items():
                longer[number] = longer.get(number, 0) + ways * number
                if number < keys:
                    longer[number + 1] = ways * (keys - number) * values
            shown = {number: ways for number, ways in longer.items() if ways}
            found = sum(ways * (keys if self.allow_dot else number) for number, ways in shown.items())
            if found >= enough:
                break
        return found

    @property
    def extra_tokens(self) -> int:
        return self.num_keys + 1


def associative_recall(
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    *,
    length: int,
    num_keys: int = 1,
    allow_dot: bool = False,
) -> list[int]:
    """One row: as many whole pairs as fit `length`, the copy token, a key and its value."""
    ordinary = vocabulary.size - 2
    first_value, values = 1 + ordinary // 2, ordinary - ordinary // 2
    keys = list(itertools.product(range(1, first_value), repeat=num_keys))
    told = {key: first_value + int(rng.integers(0, values)) for key in keys}
    row: list[int] = []
    shown: dict[tuple[int, ...], None] = {}
    for _ in range(length // (num_keys + 1)):
        key = keys[int(rng.integers(0, len(keys)))]
        row += [*key, told[key]]
        shown[key] = None
    key = keys[int(rng.integers(0, len(keys)))]
    if key not in shown and not allow_dot:
        key = list(shown)[int(rng.integers(0, len(shown)))]
    return [*row, vocabulary.copy, *key, told[key] if key in shown else 0]
