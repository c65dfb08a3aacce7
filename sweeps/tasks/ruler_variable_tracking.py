"""Variable tracking (RULER, arXiv:2404.06654) as rows of tokens: which variables have this value?

A chain is `a = d1 .. dm ;`, then `b = a ;`, `c = b ;` and so on, each somewhere later in the noise. After it comes
`? d1 .. dm is`, and the variables of that chain are asked for in the order of their definition. Other chains distract.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.ruler import ASK, END, EQUALS, IS, RulerTask, hidden, rows_of
from recallfront.sweeps.tasks.base import DrawnRows


class RulerVariableTracking(RulerTask):
    """The variables of a chain of assignments."""

    name: Literal["ruler_variable_tracking"] = "ruler_variable_tracking"
    haystack_kind: Literal["sentence", "noise"] = Field(
        default="sentence",
        description="What is around the assignments: one sentence again and again, or noise.",
    )
    num_chains: int = Field(default=1, ge=1, description="Chains of a row, of which one is asked for.")
    num_hops: int = Field(default=4, ge=0, description="Assignments of a chain after its first.")

    @model_validator(mode="after")
    def _chains_fit(self) -> Self:
        self.check_names(self.num_chains * (self.num_hops + 1), "a variable for each assignment")
        if self.num_chains > 10**self.value_digits:
            raise ValueError(
                f"num_chains={self.num_chains}: value_digits={self.value_digits} gives too few different values"
            )
        for rows in (*self.train, *self.validation, *self.test):
            lacking = 8 * self.num_chains * (self.num_hops + 1) - self._room(rows.length)
            if lacking > 0:
                raise ValueError(
                    f"length={rows.length}: has no room for the chains, the question and a haystack; it must be at "
                    f"least {rows.length + lacking}"
                )
        return self

    def _room(self, length: int) -> int:
        """Tokens of noise; the last variable of the answer is not read."""
        chain = 3 + self.value_digits + 4 * self.num_hops
        question = 2 + self.value_digits + self.num_hops + 1
        return length + 1 - self.num_chains * chain - question

    def draw(self, rows: DrawnRows, seed: int) -> tuple[Integers, Integers]:
        rng = np.random.default_rng(seed)
        return rows_of(self._row(rng, self._room(rows.length)) for _ in range(rows.examples))

    def _row(self, rng: np.random.Generator, room: int) -> tuple[list[int], list[int]]:
        steps = self.num_hops + 1
        variables = np.reshape(self.names(rng, self.num_chains * steps), (self.num_chains, steps)).tolist()
        values: list[list[int]] = []
        while len(values) < self.num_chains:
            value = self.value(rng)
            if value not in values:
                values.append(value)
        chains = [
            [
                [own[0], EQUALS, *value, END],
                *([b, EQUALS, a, END] for a, b in zip(own, own[1:], strict=False)),
            ]
            for own, value in zip(variables, values, strict=True)
        ]
        # Each chain keeps its order, and chains mix.
        turns = rng.permutation(np.repeat(np.arange(self.num_chains), steps)).tolist()
        waiting = [iter(chain) for chain in chains]
        row = hidden(
            rng, self.haystack(rng, room, self.haystack_kind), [next(waiting[turn]) for turn in turns]
        )
        asked = [0] * (len(row) + 2 + self.value_digits) + [1] * steps
        return [*row, ASK, *values[0], IS, *variables[0]], asked
