"""Phonebook look-up (Repeat After Me, arXiv:2402.01032; Griffin, arXiv:2402.19427) as tokens: whose number is it?

A book of entries `first last : d1 ... d10 newline`, a blank line, two of its entries again, a blank line, then the name
of a third entry and a colon. The ten digits of its number are asked for. Tokens: the digits, the colon, the newline,
then first names and as many last names. No two entries have the same name.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, AlikeRows, DrawnTask

if TYPE_CHECKING:
    from torch import Tensor

_COLON, _NEWLINE, _FIRST_NAME = 10, 11, 12
_DIGITS = 10  # of a number
_ENTRY = _DIGITS + 4  # tokens of an entry
_AFTER = 2 * _ENTRY + 2 + 3 + _DIGITS - 1  # tokens that are read after the book


class BookRows(AlikeRows):
    """Rows of books of one size."""

    entries: int = Field(
        ge=3, le=2**16, description="Entries of the book; a row has 14 * entries + 42 tokens."
    )

    @property
    def tokens_per_row(self) -> int:
        return _ENTRY * self.entries + _AFTER

    @property
    def segment(self) -> str:
        return f"entries_{self.entries}"


class Phonebook(DrawnTask[BookRows]):
    """The number of a name; recall is also reported by digit and by how many entries back the answer is."""

    name: Literal["phonebook"] = "phonebook"
    vocab_size: int = Field(
        default=140,
        ge=16,
        le=2**24,
        description="Number of tokens: 12, then as many first names as last names.",
    )
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    @model_validator(mode="after")
    def _enough_names(self) -> Self:
        most = self._first_names * self._last_names
        for rows in (*self.train, *self.validation, *self.test):
            if rows.entries > most:
                raise ValueError(
                    f"entries={rows.entries}: vocab_size={self.vocab_size} has only {most} names"
                )
        return self

    @property
    def _first_names(self) -> int:
        return (self.vocab_size - _FIRST_NAME) // 2

    @property
    def _last_names(self) -> int:
        return self.vocab_size - _FIRST_NAME - self._first_names

    def draw(self, rows: BookRows, seed: int) -> tuple[Integers, Integers]:
        rng = np.random.default_rng(seed)
        book = np.empty((rows.examples, rows.entries, _ENTRY), dtype=np.int64)
        firsts, lasts = self._first_names, self._last_names
        for page in book:
            names = rng.choice(firsts * lasts, size=rows.entries, replace=False)
            page[:, 0], page[:, 1] = _FIRST_NAME + names // lasts, _FIRST_NAME + firsts + names % lasts
        book[:, :, 2], book[:, :, -1] = _COLON, _NEWLINE
        book[:, :, 3:-1] = rng.integers(0, 10, size=(rows.examples, rows.entries, _DIGITS))
        book[:, :, 3] = rng.integers(6, 10, size=(rows.examples, rows.entries))
        shown = np.array([rng.permutation(rows.entries)[:3] for _ in range(rows.examples)])
        again = book[np.arange(rows.examples)[:, None], shown]
        blank = np.full((rows.examples, 1), _NEWLINE)
        row = [book.reshape(rows.examples, -1), blank, again[:, 0], again[:, 1], blank, again[:, 2, :-1]]
        tokens = np.concatenate(row, axis=1)
        labels = np.full_like(tokens[:, 1:], IGNORED)
        labels[:, -_DIGITS:] = tokens[:, -_DIGITS:]
        return np.ascontiguousarray(tokens[:, :-1]), labels

    def slices(self, inputs: "Tensor", labels: "Tensor") -> Mapping[str, "Tensor"]:
        asked = labels != IGNORED
        book = inputs[:, :-_AFTER].unflatten(1, (-1, _ENTRY))
        name = inputs[:, -_DIGITS - 2 : -_DIGITS]
        back = book.shape[1] - 1 - (book[:, :, :2] == name[:, None]).all(-1).int().argmax(1)
        found = {}
        for octave in range(book.shape[1].bit_length()):
            rows = (back + 1 >= 2**octave) & (back + 1 < 2 ** (octave + 1))
            if rows.any():
                found[f"entries_back_{2**octave}"] = asked & rows[:, None]
        for digit in range(_DIGITS):
            own = asked.clone()
            own[:, : -_DIGITS + digit] = False
            own[:, inputs.shape[1] - _DIGITS + digit + 1 :] = False
            found[f"digit_{digit + 1}"] = own
        return found
