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
from recallfront.sweeps.stream import Drawer, StreamRows, StreamTask
from recallfront.sweeps.tasks.base import IGNORED


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


class SafariTask(StreamTask[StreamRows]):
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

    @abstractmethod
    def possible_rows(self, length: int, enough: int) -> int:
        """How many different rows there are; a number from `enough` on stands for more."""

    @property
    def longest(self) -> int:
        return super().longest + self.extra_tokens

    def drawer(self) -> Drawer[StreamRows]:
        rng = np.random.default_rng(self.seed)
        return lambda rows, training: next_tokens(
            distinct_rows(
                rng,
                rows.examples,
                lambda: self.row(rng, rows.length),
                possible=self.possible_rows(rows.length, rows.examples),
            ),
            None if training else self.answer_length,
        )


def distinct_rows(
    rng: np.random.Generator, count: int, draw: Callable[[], list[int]], *, possible: int
) -> Integers:
    """`count` of `possible` different rows in a random order, from the first `count` draws and those after them.

    Raises:
        ValueError: there are not so many.
    """
    if possible < count:
        raise ValueError(
            f"examples={count}: only {possible} different rows are possible; ask for fewer or longer ones"
        )
    rows = np.unique(np.array([draw() for _ in range(count)], dtype=np.int64), axis=0)
    # the authors sort once; what is drawn in the place of repeated rows stands behind, in the order of drawing
    known = dict.fromkeys(map(tuple, rows.tolist())) if len(rows) < count else {}
    while 0 < len(known) < count:
        known.setdefault(tuple(draw()))
    rows = np.array(list(known), dtype=np.int64) if known else rows
    rng.shuffle(rows)
    return rows


def next_tokens(rows: Integers, answer_length: int | None) -> tuple[Integers, Integers]:
    """Rows as (inputs, labels): each next token is asked for, or only the last `answer_length` ones."""
    labels = rows[:, 1:].copy()
    if answer_length is not None:
        labels[:, :-answer_length] = IGNORED
    return np.ascontiguousarray(rows[:, :-1]), labels
