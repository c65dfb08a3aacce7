"""What RULER's tasks (arXiv:2404.06654) have in common as rows of tokens: their vocabulary and their haystacks.

Tokens: the marks `is`, `;`, `?` and `=`, ten digits, `num_names` keys or variables, and noise for the rest.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, DrawnRows, DrawnTask

IS, END, ASK, EQUALS, DIGIT = 0, 1, 2, 3, 4
NAME = DIGIT + 10  # the first of the names
_SENTENCE = 8  # tokens of the sentence that is repeated


class RulerTask(DrawnTask[DrawnRows]):
    """A task of RULER."""

    vocab_size: int = Field(
        default=256,
        ge=NAME + 2,
        le=2**24,
        description="Number of tokens: 14, the names, and noise for the rest.",
    )
    num_names: int = Field(
        default=128, ge=1, description="Number of tokens that are names: keys or variables."
    )
    value_digits: int = Field(default=3, ge=1, le=9, description="Digits of a value.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    def check_names(self, needed: int, why: str) -> None:
        """Raise ValueError unless there are so many names, and noise beside them."""
        if self.num_names < needed:
            raise ValueError(f"num_names={self.num_names}: must be at least {needed}, {why}")
        if self.vocab_size <= NAME + self.num_names:
            raise ValueError(
                f"vocab_size={self.vocab_size}: must be above {NAME + self.num_names}, so that there is noise"
            )

    def names(self, rng: np.random.Generator, count: int) -> list[int]:
        """So many different names."""
        return (NAME + rng.permutation(self.num_names)[:count]).tolist()  # type: ignore[no-any-return]

    def value(self, rng: np.random.Generator) -> list[int]:
        """A random value."""
        return (DIGIT + rng.integers(0, 10, size=self.value_digits)).tolist()  # type: ignore[no-any-return]

    def noise(self, rng: np.random.Generator, count: int) -> list[int]:
        """So many random tokens of noise."""
        return rng.integers(NAME + self.num_names, self.vocab_size, size=count).tolist()  # type: ignore[no-any-return]

    def haystack(
        self, rng: np.random.Generator, count: int, kind: Literal["sentence", "noise"]
    ) -> list[list[int]]:
        """So many tokens of noise in pieces between which needles may be put; the first piece may be shorter."""
        if kind == "noise":
            return [[token] for token in self.noise(rng, count)]
        first = NAME + self.num_names
        sentence = [first + at % (self.vocab_size - first) for at in range(_SENTENCE)]
        lines, rest = divmod(count, _SENTENCE)
        return [sentence[_SENTENCE - rest :]] * (rest > 0) + [sentence] * lines


def hidden(
    rng: np.random.Generator, haystack: Sequence[list[int]], needles: Iterable[list[int]]
) -> list[int]:
    """The haystack with the needles, in their order, put before pieces of it that are drawn without repetition."""
    needles = list(needles)
    places = set(rng.permutation(len(haystack))[: len(needles)].tolist())
    row: list[int] = []
    waiting = iter(needles)
    for at, piece in enumerate(haystack):
        row += next(waiting) if at in places else []
        row += piece
    for needle in waiting:
        row += needle
    return row


def rows_of(pairs: Iterable[tuple[list[int], list[int]]]) -> tuple[Integers, Integers]:
    """Rows of tokens and which of them are asked for, as (inputs, labels): each label is the next token."""
    rows = list(pairs)
    tokens = np.array([row for row, _ in rows], dtype=np.int64)
    asked = np.array([mask for _, mask in rows], dtype=bool)
    labels = np.where(asked[:, 1:], tokens[:, 1:], IGNORED)
    return np.ascontiguousarray(tokens[:, :-1]), labels
