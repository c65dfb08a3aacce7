"""What safari's tasks (H3, arXiv:2212.14052) have in common: their vocabulary, and distinct rows from one stream.

Tokens are the strings "0", "1", ..., "=>" and "." sorted as strings: "." is 0 and the copy token "=>" is the last.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.stream import Drawer, StreamTask
from recallfront.sweeps.tasks.base import IGNORED

_MOST_ROUNDS = 100  # of drawing rows in the place of repeated ones


@dataclass(frozen=True)
class Vocabulary:
    """`size` tokens: 0 is the dot, the last one the copy token, and those between are ordinary."""

    size: int

    @property
    def copy(self) -> int:
        return self.size - 1

    @property
    def weights(self) -> NDArray[np.float64]:
        """Probability of each token -> (size,): ordinary ones are equally likely, the two others never appear."""
        weights = np.full(self.size, 1 / (self.size - 2))
        weights[[0, -1]] = 0.0
        return weights


class SafariTask(StreamTask):
    """A task of safari: a row's end is its answer, asked for alone in tests; in training each next token is."""

    vocab_size: int = Field(
        default=20, ge=4, le=2**24, description="Number of tokens, dot and copy token included."
    )

    @property
    @abstractmethod
    def answer_length(self) -> int:
        """Tokens of the answer."""

    @property
    @abstractmethod
    def extra_tokens(self) -> int:
        """How many tokens a row's input may have beyond its length."""

    @abstractmethod
    def row(self, rng: np.random.Generator, length: int) -> list[int]:
        """The next row, its answer included."""

    @property
    def longest(self) -> int:
        return super().longest + self.extra_tokens

    def drawer(self) -> Drawer:
        rng = np.random.default_rng(self.seed)
        return lambda rows, training: asked(
            distinct_rows(rng, rows.examples, lambda: self.row(rng, rows.length)),
            None if training else self.answer_length,
        )


def distinct_rows(rng: np.random.Generator, count: int, draw: Callable[[], list[int]]) -> Integers:
    """`count` different rows in a random order.

    Raises:
        ValueError: there are hardly so many.
    """
    rows = np.empty((0, 0), dtype=np.int64)
    for _ in range(_MOST_ROUNDS):
        new = np.array([draw() for _ in range(count - len(rows))], dtype=np.int64)
        rows = np.unique(np.concatenate([rows, new]) if len(rows) else new, axis=0)
        if len(rows) == count:
            rng.shuffle(rows)
            return rows
    raise ValueError(
        f"examples={count}: only {len(rows)} different rows were found; ask for fewer or longer ones"
    )


def asked(rows: Integers, answer_length: int | None) -> tuple[Integers, Integers]:
    """Rows as (inputs, labels): each next token is asked for, or only the last `answer_length` ones."""
    labels = rows[:, 1:].copy()
    if answer_length is not None:
        labels[:, :-answer_length] = IGNORED
    return np.ascontiguousarray(rows[:, :-1]), labels
