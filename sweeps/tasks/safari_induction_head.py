"""Induction heads as in safari (H3, arXiv:2212.14052): what followed the copy token must follow it at the end again.

Rows equal those of the authors' generator; see `sweeps/safari.py` for how rows of all splits come from one generator.
"""

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.safari import SafariTask, Vocabulary


class SafariInductionHead(SafariTask):
    """The tokens after the copy token."""

    name: Literal["safari_induction_head"] = "safari_induction_head"
    induction_len: int = Field(default=1, ge=1, description="Tokens to be repeated.")
    induction_num_triggers: int = Field(default=1, ge=1, description="Most copy tokens within a row.")

    @model_validator(mode="after")
    def _copies_fit(self) -> Self:
        for rows in (*self.train, *self.validation, *self.test):
            if rows.length < self.induction_len + 2:
                raise ValueError(
                    f"length={rows.length}: must be at least induction_len + 2 = {self.induction_len + 2}"
                )
        return self

    @property
    def answer_length(self) -> int:
        return self.induction_len

    @property
    def extra_tokens(self) -> int:
        return self.induction_len

    def row(self, rng: np.random.Generator, length: int) -> list[int]:
        return induction_head(
            rng,
            Vocabulary(self.vocab_size),
            length=length,
            induction_len=self.induction_len,
            num_triggers=self.induction_num_triggers,
        )

    def possible_rows(self, length: int, enough: int) -> int:
        copied, found = self.induction_len, 0
        for triggers in range(1, self.induction_num_triggers + 1):
            # places that leave room for the copied tokens between them, then the tokens that are free
            places = max(0, length - 1 - copied - copied * (triggers - 1))
            free = length - triggers - copied * (triggers - 1)
            found += math.comb(places, triggers) * (self.vocab_size - 2) ** max(
                0, min(free, enough.bit_length())
            )
            if places < triggers or found >= enough:
                break
        return found


def induction_head(
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    *,
    length: int,
    induction_len: int = 1,
    num_triggers: int = 1,
) -> list[int]:
    """One row of length + 1 + induction_len tokens, its answer included."""
    row: list[int] = rng.choice(vocabulary.size, size=length, replace=True, p=vocabulary.weights).tolist()
    row.append(vocabulary.copy)
    triggers = 1 if rng.uniform() < 0.5 else num_triggers
    places: list[int] = []
    for place in sorted(rng.integers(length - 1 - induction_len, size=triggers).tolist()):
        if not places or place - places[-1] > induction_len:
            places.append(place)
    answer = row[places[0] + 1 : places[0] + 1 + induction_len]
    for place in places:
        row[place] = vocabulary.copy
        row[place + 1 : place + 1 + induction_len] = answer
    return row + answer
