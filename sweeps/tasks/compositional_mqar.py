"""Compositional MQAR (zoology): a value belongs to two keys together, and each key alone says nothing.

The pairs of `g` first and `g` second keys have a value each: `K1 K2 v` in a random order, then queries `K1 K2` whose
label stands at the second key. Rows equal those of the authors' generator.
"""

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers, draw_rows, draw_slots, fill
from recallfront.sweeps.tasks.base import IGNORED
from recallfront.sweeps.tasks.mqar import MQARRows, PairsTask


class CompositionalMQAR(PairsTask[MQARRows]):
    """MQAR with a value for each combination of two keys; `num_kv_pairs` counts combinations and is a square."""

    name: Literal["compositional_mqar"] = "compositional_mqar"
    vocab_size: int = Field(
        default=8192,
        ge=6,
        le=2**24,
        description="Number of tokens: a third each for first keys, second keys, values.",
    )

    @model_validator(mode="after")
    def _segments_fit(self) -> Self:
        third = self.vocab_size // 3
        for rows in (*self.train, *self.validation, *self.test):
            length, pairs = rows.input_seq_len, rows.num_kv_pairs
            self.check_length(length)
            if math.isqrt(pairs) ** 2 != pairs:
                raise ValueError(
                    f"num_kv_pairs={pairs}: must be a square, the combinations of two sets of keys"
                )
            if 6 * pairs > length:
                raise ValueError(f"num_kv_pairs={pairs}: must be at most input_seq_len / 6 = {length // 6}")
            if math.isqrt(pairs) > third - 1 or pairs > third:
                raise ValueError(
                    f"num_kv_pairs={pairs}: vocab_size={self.vocab_size} has too few distinct tokens"
                )
        return self

    def draw(self, rows: MQARRows, seed: int) -> tuple[Integers, Integers]:
        return compositional_mqar(
            vocab_size=self.vocab_size,
            num_examples=rows.examples,
            input_seq_len=rows.input_seq_len,
            num_kv_pairs=rows.num_kv_pairs,
            seed=seed,
            power_a=self.power_a,
            random_non_queries=self.random_non_queries,
        )


def compositional_mqar(
    *,
    vocab_size: int,
    num_examples: int,
    input_seq_len: int,
    num_kv_pairs: int,
    seed: int,
    power_a: float = 0.01,
    random_non_queries: bool = True,
) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, input_seq_len)."""
    random = np.random.RandomState(seed)
    grid = math.isqrt(num_kv_pairs)
    third = vocab_size // 3
    first = draw_rows(random, np.arange(1, third), num_examples, grid)
    second = draw_rows(random, np.arange(third, 2 * third), num_examples, grid)
    order = np.array([random.permutation(num_kv_pairs) for _ in range(num_examples)], dtype=np.int64)
    values = draw_rows(random, np.arange(2 * third, vocab_size), num_examples, num_kv_pairs)
    context = 3 * num_kv_pairs
    slots = draw_slots(random, (input_seq_len - context) // 3, num_examples, num_kv_pairs, power_a)

    key1 = np.take_along_axis(first, order // grid, axis=1)
    key2 = np.take_along_axis(second, order % grid, axis=1)
    inputs = np.zeros((num_examples, input_seq_len), dtype=np.int64)
    labels = np.full((num_examples, input_seq_len), IGNORED, dtype=np.int64)
    inputs[:, 0:context:3], inputs[:, 1:context:3], inputs[:, 2:context:3] = key1, key2, values
    at = context + 3 * slots
    np.put_along_axis(inputs, at, key1, axis=1)
    np.put_along_axis(inputs, at + 1, key2, axis=1)
    np.put_along_axis(labels, at + 1, values, axis=1)
    if random_non_queries:
        fill(random, inputs, vocab_size)
    return inputs, labels
