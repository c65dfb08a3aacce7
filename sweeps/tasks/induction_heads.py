"""Induction heads (Mamba arXiv:2312.00752, Griffin arXiv:2402.19427): what came after the special token the first time?

A special token stands at one random place and at the end of a row of random tokens; at the end, the token after the
first one is asked for. No code was released; 0 is the special token here, and the others are 1 .. vocab_size - 1.
Models are trained at one length and tested at many.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, DrawnRows, DrawnTask

if TYPE_CHECKING:
    from torch import Tensor


class InductionRows(DrawnRows):
    """Rows of one length."""

    length: int = Field(ge=3, le=2**20, description="Tokens of a row.")


class InductionHeads(DrawnTask[InductionRows]):
    """The token after the special one; recall is also reported by the distance between question and answer."""

    name: Literal["induction_heads"] = "induction_heads"
    vocab_size: int = Field(
        default=16, ge=3, le=2**24, description="Number of tokens, the special one included."
    )
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    def draw(self, rows: InductionRows, seed: int) -> tuple[Integers, Integers]:
        rng = np.random.default_rng(seed)
        inputs = rng.integers(1, self.vocab_size, size=(rows.examples, rows.length))
        labels = np.full_like(inputs, IGNORED)
        each = np.arange(rows.examples)
        special = rng.integers(0, rows.length - 2, size=rows.examples)
        inputs[each, special] = 0
        inputs[:, -1] = 0
        labels[:, -1] = inputs[each, special + 1]
        return inputs, labels

    def slices(self, inputs: "Tensor", labels: "Tensor") -> Mapping[str, "Tensor"]:
        """By the power of two that the distance from the first special token to the last is at least."""
        length = inputs.shape[1]
        distance = length - 1 - (inputs == 0).int().argmax(dim=1)
        asked = labels != IGNORED
        octaves = range(1, length.bit_length())
        inside = {n: (distance >= 2**n) & (distance < 2 ** (n + 1)) for n in octaves}
        return {f"distance_{2**n}": asked & rows[:, None] for n, rows in inside.items() if rows.any()}
