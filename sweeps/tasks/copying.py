"""Copying strings and looking up what follows an n-gram (Repeat After Me, arXiv:2402.01032).

| question     | row             |
| copy         | $ s `|` s .     |
| prefix_ngram | $ g `|` s `|` w . | w follows the n-gram g in s
| suffix_ngram | $ s `|` g w .   |
| duplicate_ngram | copy, but one n-gram of s was overwritten by another one of s |

What follows the last mark or the n-gram is asked for, the end included. Rows equal those of the authors' generator from
the same seed, with which both NumPy's and Python's streams start.
"""

import random
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, SPLITS, AlikeRows, DrawnTask, Split

CopyingQuestion = Literal["copy", "prefix_ngram", "suffix_ngram", "duplicate_ngram"]
_ATTEMPTS = 9  # to draw a string with an n-gram that it has once
_MARKS = 4


class CopyRows(AlikeRows):
    """Rows of strings of some lengths."""

    min_length: int = Field(gt=0, le=2**20, description="Letters of the shortest string.")
    max_length: int = Field(
        gt=0, le=2**20, description="Letters of the longest string; figures are called by it."
    )
    context: int | None = Field(
        default=None,
        gt=0,
        le=2**21,
        description="Tokens of a row, of which the model reads one less; null is what the longest string needs.",
    )
    packed: bool = Field(
        default=False,
        description="Whether strings follow each other until the row is full; otherwise it is padded.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_length < self.min_length:
            raise ValueError(f"max_length={self.max_length}: must be at least min_length={self.min_length}")
        return self

    @property
    def tokens_per_row(self) -> int:
        return self.max_length

    @property
    def segment(self) -> str:
        return f"letters_{self.min_length}_to_{self.max_length}" + ("_packed" if self.packed else "")


class Copying(DrawnTask[CopyRows]):
    """Strings of letters to be copied, or to be continued from an n-gram of theirs."""

    name: Literal["copying"] = "copying"
    vocab_size: int = Field(
        default=30, ge=6, le=2**24, description="Number of tokens: letters, then four marks."
    )
    question: CopyingQuestion = Field(
        default="copy", description="What is asked in training, and in tests if `test_question` is null."
    )
    test_question: CopyingQuestion | None = Field(
        default=None, description="What is asked in validation and test, such as `duplicate_ngram`."
    )
    n_gram: int = Field(default=3, ge=1, description="Letters of the n-gram.")
    length_answer: int = Field(default=0, ge=0, description="Letters of the answer; 0 is all that follow.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    @model_validator(mode="after")
    def _strings_fit(self) -> Self:
        shortest = 1 if self._copies else self.n_gram + self.length_answer + 3
        for rows in (*self.train, *self.validation, *self.test):
            if rows.min_length < shortest:
                raise ValueError(
                    f"min_length={rows.min_length}: must be at least n_gram + length_answer + 3 = {shortest}"
                )
            if rows.context is not None and rows.context < self._needed(rows):
                raise ValueError(
                    f"context={rows.context}: must be at least {self._needed(rows)} with max_length={rows.max_length}"
                )
        return self

    @property
    def longest(self) -> int:
        return max(self._context(rows) for split in SPLITS for rows in self.rows_of(split)) - 1

    def draw(self, rows: CopyRows, seed: int) -> tuple[Integers, Integers]:
        return self.draw_of("train", rows, seed)

    def draw_of(self, split: Split, rows: CopyRows, seed: int) -> tuple[Integers, Integers]:
        asked = self.question if split == "train" else self.test_question or self.question
        return shifted(
            *copying(
                letters=self.vocab_size - _MARKS,
                num_examples=rows.examples,
                min_length=rows.min_length,
                max_length=rows.max_length,
                context=self._context(rows),
                packed=rows.packed,
                question=asked,
                n_gram=self.n_gram,
                length_answer=self.length_answer,
                seed=seed,
            )
        )

    def _context(self, rows: CopyRows) -> int:
        return rows.context or self._needed(rows)

    def _needed(self, rows: CopyRows) -> int:
        return 2 * rows.max_length + 3 + (0 if self._copies else self.n_gram + 1)

    @property
    def _copies(self) -> bool:
        return {self.question, self.test_question} <= {"copy", None}


def copying(
    *,
    letters: int,
    num_examples: int,
    min_length: int,
    max_length: int,
    context: int,
    packed: bool,
    question: CopyingQuestion,
    n_gram: int,
    length_answer: int,
    seed: int,
) -> tuple[Integers, Integers]:
    """The rows as (tokens, whether each is asked for), int64 (num_examples, context).

    Where strings are not packed none is cut: a longer one makes all rows longer. A `length_answer` of 0 or less, such
    as the authors' default of -1, asks for all letters.

    Raises:
        ValueError: strings of such few letters have no n-gram that appears once.
    """
    strings = _Strings(letters, question, n_gram, max(length_answer, 0), seed)
    room = context if packed else max(context, 2 * max_length + n_gram + _MARKS)
    tokens = np.full((num_examples, room), letters + 3, dtype=np.int64)
    asked, longest = np.zeros_like(tokens), context
    for row, mask in zip(tokens, asked, strict=True):
        start = 0
        while start < context:
            text, answer = strings.draw(min_length, max_length)
            part = text[: room - start]
            row[start : start + len(part)] = part
            if len(part) == len(text):
                mask[start + answer : start + len(text)] = 1
            start += len(part)
            if not packed:
                break
        longest = max(longest, start)
    return tokens[:, :longest], asked[:, :longest]


def shifted(tokens: Integers, asked: Integers) -> tuple[Integers, Integers]:
    """Rows of tokens as (inputs, labels), int64 (rows, tokens - 1): each label is the next token, if asked for."""
    labels = np.where(asked[:, 1:] == 1, tokens[:, 1:], IGNORED)
    return np.ascontiguousarray(tokens[:, :-1]), labels


class _Strings:
    """Strings one after another, with their question and answer."""

    def __init__(
        self, letters: int, question: CopyingQuestion, n_gram: int, length_answer: int, seed: int
    ) -> None:
        self.letters, self.question = letters, question
        self.n_gram, self.length_answer = n_gram, length_answer
        self.numpy, self.python = np.random.RandomState(seed), random.Random(seed)

    def draw(self, min_length: int, max_length: int) -> tuple[list[int], int]:
        """The tokens of one string with its marks, and where the answer begins."""
        begin, bar, end = self.letters, self.letters + 1, self.letters + 2
        length = int(self.numpy.randint(min_length, max_length + 1))
        if self.question == "copy":
            string = self._letters(length)
            return [begin, *string, bar, *string[: self.length_answer or None], end], length + 2
        string, ngrams = self._with_ngrams(length)
        if self.question == "duplicate_ngram":
            new, old = self.python.sample(ngrams, 2)
            string = _replaced(string, old, new)
            return [begin, *string, bar, *string, end], length + 2
        ngram = ngrams[int(self.numpy.randint(0, len(ngrams) - 1))]
        after = _find(string, ngram, 0) + self.n_gram
        answer = string[after : after + self.length_answer if self.length_answer else None]
        if self.question == "prefix_ngram":
            return [begin, *ngram, bar, *string, bar, *answer, end], length + self.n_gram + 3
        return [begin, *string, bar, *ngram, *answer, end], length + self.n_gram + 2

    def _letters(self, length: int) -> list[int]:
        letters: list[int] = self.numpy.choice(self.letters, size=length).tolist()
        return letters

    def _with_ngrams(self, length: int) -> tuple[list[int], list[list[int]]]:
        """A string that has some n-gram once, and its n-grams that have an answer after them."""
        for _ in range(_ATTEMPTS):
            string = self._letters(length)
            starts = range(length - self.n_gram - self.length_answer - 1)
            ngrams = [string[start : start + self.n_gram] for start in starts]
            if any(ngrams.count(ngram) == 1 for ngram in ngrams):
                return string, ngrams
        raise ValueError(
            f"n_gram={self.n_gram}: strings of {length} out of {self.letters} letters have none that appears once"
        )


def _find(string: list[int], part: list[int], start: int) -> int:
    """Where `part` first stands in `string` from `start` on, or -1."""
    for place in range(start, len(string) - len(part) + 1):
        if string[place : place + len(part)] == part:
            return place
    return -1


def _replaced(string: list[int], old: list[int], new: list[int]) -> list[int]:
    """The string with every `old`, from the left and without overlap, replaced by `new` of the same length."""
    string = list(string)
    place = _find(string, old, 0)
    while place >= 0:
        string[place : place + len(old)] = new
        place = _find(string, old, place + len(old))
    return string
