"""MAD's memorization (arXiv:2403.17844): fixed facts that the weights must hold, since the context never tells them.

Rows equal those of the authors' generator. Training and test rows ask for the same facts.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.stream import Drawer, Row, StreamRows, StreamTask, stacked
from recallfront.sweeps.tasks.base import IGNORED


class MADMemorization(StreamTask[StreamRows]):
    """MAD's memorization."""

    name: Literal["mad_memorization"] = "mad_memorization"
    vocab_size: int = Field(
        default=256, ge=3, le=2**24, description="Number of tokens: keys, values, one to answer at."
    )

    def drawer(self) -> Drawer[StreamRows]:
        rng = np.random.default_rng(self.seed)
        facts = memorized_facts(self.vocab_size, self.seed)
        return lambda rows, training: stacked(
            memorization(rng, facts, vocab_size=self.vocab_size, seq_len=rows.length)
            for _ in range(rows.examples)
        )


def memorized_facts(vocab_size: int, seed: int, *, noise_vocab_size: int = 0) -> Integers:
    """The facts as (number of keys, 2): each key in the order in which it is drawn from, and its value."""
    rng = np.random.default_rng(seed)
    tokens = vocab_size - 1 - noise_vocab_size
    keys, values = np.arange(tokens // 2), np.arange(tokens // 2, tokens)
    rng.shuffle(keys)
    rng.shuffle(values)
    return np.stack([keys, values[: len(keys)]], axis=1)


def memorization(
    rng: np.random.Generator,
    facts: Integers,
    *,
    vocab_size: int,
    seq_len: int,
    noise_vocab_size: int = 0,
    frac_noise: float = 0.0,
) -> Row:
    """One row: (inputs, labels); a key's value is asked for at the token after it.

    With `frac_noise` that share of the pairs is noise, of which nothing is asked.
    """
    pairs, insert = seq_len // 2, vocab_size - 1
    # The authors draw a slot that must hold no noise also if there is none.
    kept = rng.integers(0, pairs)
    inputs: list[int] = []
    labels: list[int] = []
    for pair in range(pairs):
        if frac_noise > 0 and pair != kept and rng.random() < frac_noise:
            inputs += (insert - noise_vocab_size + rng.integers(0, noise_vocab_size, size=2)).tolist()
            labels += [IGNORED, IGNORED]
            continue
        key, value = facts[int(rng.integers(0, len(facts)))].tolist()
        inputs += [key, insert]
        labels += [IGNORED, value]
    return inputs, labels
