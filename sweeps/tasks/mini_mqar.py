"""Mini-MQAR (just read twice, arXiv:2407.05483): pairs, the keys that are asked for, then both said again unaided.

| input | k1 v1 k2 v2 ... | 1 | queried keys | 1 | 0 0 0 ... |
| label |                 |   |              | k | v k v ... |

Rows equal those of the authors' generator. What is answered is not fed back: the inputs there are 0.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers, draw_rows
from recallfront.sweeps.tasks.base import IGNORED, AlikeRows, DrawnTask


class MiniRows(AlikeRows):
    """Rows of one number of pairs and one number of queries."""

    num_kv_pairs: int = Field(gt=0, le=2**18, description="Pairs of a row.")
    num_queries: int = Field(gt=0, le=2**18, description="Keys that are asked for.")

    @property
    def tokens_per_row(self) -> int:
        return 2 * self.num_kv_pairs + 3 * self.num_queries + 1

    @property
    def segment(self) -> str:
        return f"pairs_{self.num_kv_pairs}_queries_{self.num_queries}"


class MiniMQAR(DrawnTask[MiniRows]):
    """Pairs of which some are said again."""

    name: Literal["mini_mqar"] = "mini_mqar"
    vocab_size: int = Field(default=8192, ge=8, le=2**24, description="Number of tokens, two marks included.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        for rows in (*self.train, *self.validation, *self.test):
            if rows.num_queries > rows.num_kv_pairs:
                raise ValueError(
                    f"num_queries={rows.num_queries}: must be at most num_kv_pairs={rows.num_kv_pairs}"
                )
            if rows.num_kv_pairs > self.vocab_size // 2 - 2:
                raise ValueError(
                    f"num_kv_pairs={rows.num_kv_pairs}: vocab_size={self.vocab_size} has too few keys"
                )
        return self

    def draw(self, rows: MiniRows, seed: int) -> tuple[Integers, Integers]:
        return mini_mqar(
            vocab_size=self.vocab_size,
            num_examples=rows.examples,
            num_kv_pairs=rows.num_kv_pairs,
            num_queries=rows.num_queries,
            seed=seed,
        )


def mini_mqar(
    *, vocab_size: int, num_examples: int, num_kv_pairs: int, num_queries: int, seed: int
) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, 2 num_kv_pairs + 3 num_queries + 1)."""
    random = np.random.RandomState(seed)
    keys = draw_rows(random, np.arange(2, vocab_size // 2), num_examples, num_kv_pairs)
    values = draw_rows(random, np.arange(vocab_size // 2, vocab_size), num_examples, num_kv_pairs)
    asked = draw_rows(random, np.arange(num_kv_pairs), num_examples, num_queries)
    context = 2 * num_kv_pairs
    answers = context + num_queries + 1
    inputs = np.zeros((num_examples, answers + 2 * num_queries), dtype=np.int64)
    labels = np.full_like(inputs, IGNORED)
    inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
    inputs[:, context] = inputs[:, answers] = 1
    inputs[:, context + 1 : answers] = labels[:, answers::2] = np.take_along_axis(keys, asked, axis=1)
    labels[:, answers + 1 :: 2] = np.take_along_axis(values, asked, axis=1)
    return inputs, labels
