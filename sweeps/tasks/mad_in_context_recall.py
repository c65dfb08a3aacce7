"""MAD's in-context recall (arXiv:2403.17844): random key-value pairs, where a repeated key tells its value.

Every value of a repeated key is asked for at its key. The last pair is a key of the row again. Rows equal those of the
authors' generator. In training each position predicts the next token, as theirs does.
"""

from collections.abc import Callable
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.stream import Drawer, NoisyRows, NoisyTask, Row, stacked
from recallfront.sweeps.tasks.base import IGNORED


class InContextRecall(NoisyTask):
    """In-context recall: values of repeated keys, with noise between the pairs if `noise_vocab_size` is set."""

    vocab_size: int = Field(
        default=16, ge=4, le=2**24, description="Number of tokens, those of noise included."
    )
    multi_query: bool = Field(
        default=True, description="Whether each repeated key is asked for; otherwise only the last one is."
    )

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if self.vocab_size - self.noise_vocab_size - (not self.multi_query) < 2:
            raise ValueError(
                f"noise_vocab_size={self.noise_vocab_size}: leaves no key and value of vocab_size={self.vocab_size}"
            )
        return self

    def drawer(self) -> Drawer[NoisyRows]:
        rng = np.random.default_rng(self.seed)

        def draw(rows: NoisyRows, training: bool) -> tuple[Integers, Integers]:
            row = in_context_recall(
                vocab_size=self.vocab_size,
                noise_vocab_size=self.noise_vocab_size,
                frac_noise=self.noise_of(rows),
                multi_query=self.multi_query,
            )
            return stacked(row(rng, rows.length, training) for _ in range(rows.examples))

        return draw


class MADInContextRecall(InContextRecall):
    """MAD's in-context recall."""

    name: Literal["mad_in_context_recall"] = "mad_in_context_recall"


def in_context_recall(
    *, vocab_size: int, noise_vocab_size: int = 0, frac_noise: float = 0.0, multi_query: bool = True
) -> Callable[[np.random.Generator, int, bool], Row]:
    """A function that draws one row: (generator, MAD's sequence length, whether for training) -> (inputs, labels)."""
    prefix = [] if multi_query else [vocab_size - 1]
    tokens = vocab_size - noise_vocab_size - len(prefix)
    keys = tokens // 2

    def row(rng: np.random.Generator, length: int, training: bool) -> Row:
        slots = length // 2
        kept = rng.integers(0, slots)
        values: dict[int, int] = {}
        sequence: list[int] = []
        asked: list[int] = []
        for slot in range(slots - 1):
            if frac_noise > 0 and slot != kept and rng.random() < frac_noise:
                sequence += (tokens + rng.integers(0, noise_vocab_size, size=2)).tolist()
                asked += [IGNORED, IGNORED]
                continue
            key = int(rng.integers(0, keys))
            known = key in values
            if not known:
                values[key] = keys + int(rng.integers(0, tokens - keys))
            sequence += [key, values[key]]
            asked += [IGNORED, values[key] if known and multi_query else IGNORED]
        if not values:
            raise ValueError(
                f"a row of {length} tokens is noise alone: frac_noise={frac_noise:g} must be smaller, or rows longer"
            )
        key = list(values)[int(rng.integers(0, len(values)))]
        sequence += [*prefix, key, values[key]]
        asked += [IGNORED] * (len(prefix) + 1) + [values[key]]
        return sequence[:-1], (sequence if training else asked)[1:]

    return row
