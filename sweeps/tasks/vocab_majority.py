"""Vocabulary majority (zoology): random tokens, then a 0 at which the most frequent one is asked for.

Rows equal those of zoology's generator.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, AskingRows, DrawnTask


class VocabMajority(DrawnTask[AskingRows]):
    """The most frequent token of a row."""

    name: Literal["vocab_majority"] = "vocab_majority"
    vocab_size: int = Field(default=16, ge=3, le=2**24, description="Number of tokens; 0 is the question.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    def draw(self, rows: AskingRows, seed: int) -> tuple[Integers, Integers]:
        return vocab_majority(
            vocab_size=self.vocab_size, num_examples=rows.examples, input_seq_len=rows.length, seed=seed
        )


def vocab_majority(
    *, vocab_size: int, num_examples: int, input_seq_len: int, seed: int
) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, input_seq_len); the label stands at the last token.

    Of several most frequent tokens the smallest is the answer, and it takes the place of the first token of the row
    that is another one.
    """
    random = np.random.RandomState(seed)
    inputs = np.zeros((num_examples, input_seq_len), dtype=np.int64)
    labels = np.full_like(inputs, IGNORED)
    for row, asked in zip(inputs, labels, strict=True):
        tokens = random.randint(1, vocab_size, size=input_seq_len - 1)
        counts = np.bincount(tokens, minlength=vocab_size)
        answer = int(counts.argmax())
        if (counts == counts[answer]).sum() > 1:
            tokens[(tokens != answer).argmax()] = answer
        row[:-1], asked[-1] = tokens, answer
    return inputs, labels
