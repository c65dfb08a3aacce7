"""Needles in a haystack (RULER, arXiv:2404.06654) as rows of tokens: single, multi-key, multi-value and multi-query.

A needle is `key is d1 .. dm ;`. After the haystack comes `? key is`, and then the digits of the key's values in the
order of the text are asked for, for each question in turn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.ruler import ASK, END, IS, RulerTask, hidden, rows_of
from recallfront.sweeps.tasks.base import IGNORED, DrawnRows

if TYPE_CHECKING:
    from torch import Tensor


class RulerNeedles(RulerTask):
    """Values of keys that stand somewhere in a long text; recall is also reported by the needle's depth in tenths."""

    name: Literal["ruler_needles"] = "ruler_needles"
    haystack_kind: Literal["sentence", "noise", "needles"] = Field(
        default="noise",
        description="What is around the needles: one sentence again and again, noise, other needles.",
    )
    num_keys: int = Field(
        default=1, ge=1, description="Keys of needles, those that are not asked for included."
    )
    num_values: int = Field(default=1, ge=1, description="Needles with different values that each key has.")
    num_queries: int = Field(default=1, ge=1, description="Keys that are asked for.")

    @model_validator(mode="after")
    def _needles_fit(self) -> Self:
        if self.num_queries > self.num_keys:
            raise ValueError(f"num_queries={self.num_queries}: must be at most num_keys={self.num_keys}")
        for rows in (*self.train, *self.validation, *self.test):
            room = self._context(rows.length) - self._needles * self._needle_length
            piece = 8 if self.haystack_kind == "sentence" else self._needle_length
            if room < piece:
                raise ValueError(
                    f"length={rows.length}: has no room for the needles, the questions and a haystack; it must be at "
                    f"least {rows.length + piece - room}"
                )
            pieces = room // piece
            others = pieces if self.haystack_kind == "needles" else 0
            self.check_names(self.num_keys + others, f"for the needles of length={rows.length}")
        return self

    @property
    def _needle_length(self) -> int:
        return 3 + self.value_digits

    @property
    def _needles(self) -> int:
        return self.num_keys * self.num_values

    @property
    def _question(self) -> int:
        return 3 + self.num_values * self.value_digits

    def _context(self, length: int) -> int:
        """Tokens of a row before its questions; the last answered digit is not read."""
        return length + 1 - self.num_queries * self._question

    def draw(self, rows: DrawnRows, seed: int) -> tuple[Integers, Integers]:
        rng = np.random.default_rng(seed)
        return rows_of(self._row(rng, self._context(rows.length)) for _ in range(rows.examples))

    def _row(self, rng: np.random.Generator, context: int) -> tuple[list[int], list[int]]:
        room = context - self._needles * self._needle_length
        others = room // self._needle_length if self.haystack_kind == "needles" else 0
        keys = self.names(rng, self.num_keys + others)
        needles = [
            [key, IS, *self.value(rng), END] for key in keys[: self.num_keys] for _ in range(self.num_values)
        ]
        rng.shuffle(needles)
        if self.haystack_kind == "needles":
            pieces = [[key, IS, *self.value(rng), END] for key in keys[self.num_keys :]]
            pieces[0] = self.noise(rng, room % self._needle_length) + pieces[0]
        else:
            pieces = self.haystack(rng, room, self.haystack_kind)
        row = hidden(rng, pieces, needles)
        asked = [0] * len(row)
        for key in keys[: self.num_queries]:
            answer = [digit for needle in needles if needle[0] == key for digit in needle[2:-1]]
            row += [ASK, key, IS, *answer]
            asked += [0, 0, 0] + [1] * len(answer)
        return row, asked

    def slices(self, inputs: "Tensor", labels: "Tensor") -> Mapping[str, "Tensor"]:
        context, rows = self._context(inputs.shape[1]), len(inputs)
        tenth = labels.new_full(labels.shape, -1)
        for question in range(self.num_queries):
            start = context + question * self._question
            places = (inputs[:, :context] == inputs[:, start + 1, None]).nonzero()[:, 1]
            depth = (10 * places // context).view(rows, self.num_values)
            first = start + 2
            tenth[:, first : first + self.num_values * self.value_digits] = depth.repeat_interleave(
                self.value_digits, dim=1
            )
        parts = {f"depth_{n}": (tenth == n) & (labels != IGNORED) for n in range(10)}
        return {name: mask for name, mask in parts.items() if mask.any()}
