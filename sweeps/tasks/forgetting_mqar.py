"""Forgetting MQAR (zoology): after the pairs some keys get a new value, and a query asks for the last one.

Rows equal those of the authors' generator: pairs `k v`, then updates `k v'`, then queries at even distances. A new
value differs from the value of the key at the update's index, as theirs does, so it may equal the key's own old value.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers, draw_rows, draw_slots, fill
from recallfront.sweeps.tasks.base import IGNORED
from recallfront.sweeps.tasks.mqar import MQARRows, PairsTask


class ForgettingRows(MQARRows):
    """Rows of one length, one number of pairs and one number of updates."""

    num_updates: int = Field(default=4, ge=0, description="Keys of a row that get a new value.")

    @property
    def segment(self) -> str:
        return f"{super().segment}_updates_{self.num_updates}"


class ForgettingMQAR(PairsTask[ForgettingRows]):
    """MQAR in which some keys get a new value."""

    name: Literal["forgetting_mqar"] = "forgetting_mqar"

    @model_validator(mode="after")
    def _segments_fit(self) -> Self:
        for rows in (*self.train, *self.validation, *self.test):
            length, pairs, updates = rows.input_seq_len, rows.num_kv_pairs, rows.num_updates
            self.check_length(length)
            if updates > pairs:
                raise ValueError(f"num_updates={updates}: must be at most num_kv_pairs={pairs}")
            if 4 * pairs + 2 * updates > length:
                raise ValueError(
                    f"num_kv_pairs={pairs}: needs 4 * num_kv_pairs + 2 * num_updates = {4 * pairs + 2 * updates} "
                    f"tokens, above input_seq_len={length}"
                )
            if pairs > self.vocab_size // 2 - 1:
                raise ValueError(
                    f"num_kv_pairs={pairs}: vocab_size={self.vocab_size} has only {self.vocab_size // 2 - 1} keys"
                )
        return self

    def draw(self, rows: ForgettingRows, seed: int) -> tuple[Integers, Integers]:
        return forgetting_mqar(
            vocab_size=self.vocab_size,
            num_examples=rows.examples,
            input_seq_len=rows.input_seq_len,
            num_kv_pairs=rows.num_kv_pairs,
            num_updates=rows.num_updates,
            seed=seed,
            power_a=self.power_a,
            random_non_queries=self.random_non_queries,
        )


def forgetting_mqar(
    *,
    vocab_size: int,
    num_examples: int,
    input_seq_len: int,
    num_kv_pairs: int,
    num_updates: int,
    seed: int,
    power_a: float = 0.01,
    random_non_queries: bool = True,
) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, input_seq_len)."""
    random = np.random.RandomState(seed)
    pool = np.arange(vocab_size // 2, vocab_size)
    keys = draw_rows(random, np.arange(1, vocab_size // 2), num_examples, num_kv_pairs)
    values = draw_rows(random, pool, num_examples, num_kv_pairs)
    fresh = np.array(
        [[random.choice(pool[pool != old]) for old in row[:num_updates]] for row in values], dtype=np.int64
    )
    updated = draw_rows(random, np.arange(num_kv_pairs), num_examples, num_updates)
    before, context = 2 * num_kv_pairs, 2 * (num_kv_pairs + num_updates)
    slots = draw_slots(random, (input_seq_len - context) // 2, num_examples, num_kv_pairs, power_a)

    inputs = np.zeros((num_examples, input_seq_len), dtype=np.int64)
    labels = np.full((num_examples, input_seq_len), IGNORED, dtype=np.int64)
    inputs[:, 0:before:2], inputs[:, 1:before:2] = keys, values
    inputs[:, before:context:2] = np.take_along_axis(keys, updated, axis=1)
    inputs[:, before + 1 : context : 2] = fresh
    last = values.copy()
    np.put_along_axis(last, updated, fresh, axis=1)
    np.put_along_axis(inputs, context + 2 * slots, keys, axis=1)
    np.put_along_axis(labels, context + 2 * slots, last, axis=1)
    if random_non_queries:
        fill(random, inputs, vocab_size)
    return inputs, labels
