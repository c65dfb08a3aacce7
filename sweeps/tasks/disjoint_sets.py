"""Disjoint sets (just read twice, arXiv:2407.05483): two sets that share one token, which is asked for at the end.

| input | prefix | A ... | between | B ... | answer |
| label |        |       |         |       | token  |

Rows equal those of the authors' generator. Which set comes first matters to a model that reads once: it must remember
the first one while it reads the second.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, AlikeRows, Counts, DrawnTask

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX, _BETWEEN, _ANSWER, _FIRST_ELEMENT = 1, 2, 3, 4


class SetRows(AlikeRows):
    """Rows whose sets have the same sizes."""

    short_length: int = Field(gt=0, le=2**19, description="Tokens of the first set.")
    long_length: int = Field(gt=0, le=2**19, description="Tokens of the second set.")

    @property
    def tokens_per_row(self) -> int:
        return self.short_length + self.long_length + 3

    @property
    def segment(self) -> str:
        return f"first_{self.short_length}_second_{self.long_length}"


class DisjointSets(DrawnTask[SetRows]):
    """The one token that two sets share; recall is also reported by which set is the shorter one."""

    name: Literal["disjoint_sets"] = "disjoint_sets"
    vocab_size: int = Field(
        default=2048, ge=6, le=2**24, description="Number of tokens, of which four are marks."
    )
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    @model_validator(mode="after")
    def _sets_fit(self) -> Self:
        pools = _pool_sizes(self.vocab_size)
        for rows in (*self.train, *self.validation, *self.test):
            for key, most in zip(("short_length", "long_length"), pools, strict=True):
                if (size := getattr(rows, key)) > most:
                    raise ValueError(
                        f"{key}={size}: vocab_size={self.vocab_size} leaves this set at most {most} tokens"
                    )
        return self

    def draw(self, rows: SetRows, seed: int) -> tuple[Integers, Integers]:
        return disjoint_sets(
            vocab_size=self.vocab_size,
            num_examples=rows.examples,
            short_length=rows.short_length,
            long_length=rows.long_length,
            seed=seed,
        )

    def slices(self, inputs: "Tensor", labels: "Tensor") -> Mapping[str, "Tensor"]:
        first = int((inputs[0] == _BETWEEN).nonzero()[0]) - 1
        second = inputs.shape[1] - 3 - first
        if first == second:
            return {}
        return {"first_shorter" if first < second else "first_longer": labels != IGNORED}

    def figures(self, segments: Mapping[str, Counts], slices: Mapping[str, Counts]) -> dict[str, float]:
        """Also `recall_order_gap`: recall if the shorter set comes first minus recall if the longer one does."""
        found = super().figures(segments, slices)
        if "recall_first_shorter" in found and "recall_first_longer" in found:
            found["recall_order_gap"] = found["recall_first_shorter"] - found["recall_first_longer"]
        return found


def _pool_sizes(vocab_size: int) -> tuple[int, int]:
    return min(vocab_size // 2, vocab_size - _FIRST_ELEMENT), max(
        vocab_size - _FIRST_ELEMENT - vocab_size // 2, 0
    )


def disjoint_sets(
    *, vocab_size: int, num_examples: int, short_length: int, long_length: int, seed: int
) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, short_length + long_length + 3)."""
    random = np.random.RandomState(seed)
    elements = np.arange(_FIRST_ELEMENT, vocab_size)
    inputs = np.empty((num_examples, short_length + long_length + 3), dtype=np.int64)
    labels = np.full_like(inputs, IGNORED)
    for row, asked in zip(inputs, labels, strict=True):
        pool = random.permutation(elements)
        first = random.choice(pool[: vocab_size // 2], size=short_length, replace=False)
        second = random.choice(pool[vocab_size // 2 :], size=long_length, replace=False)
        shared = first[random.randint(short_length)]
        second[random.randint(long_length)] = shared
        row[:] = [_PREFIX, *first, _BETWEEN, *second, _ANSWER]
        asked[-1] = shared
    return inputs, labels
