"""MAD's compression (arXiv:2403.17844): random tokens, then a marker after which all of them must be said again.

The authors' rows are those of an auto-encoder, with a decoder of its own on the vector of the last position. Here the
same tokens are asked of the language model itself, one after another from the marker on: what it knows of them by then
is in its state. `compression` gives the authors' rows.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from recallfront.sweeps.stream import Drawer, Row, StreamRows, StreamTask, stacked
from recallfront.sweeps.tasks.base import IGNORED


class MADCompression(StreamTask[StreamRows]):
    """MAD's compression, asked of a causal language model."""

    name: Literal["mad_compression"] = "mad_compression"
    vocab_size: int = Field(default=16, ge=3, le=2**24, description="Number of tokens, the marker included.")

    def drawer(self) -> Drawer[StreamRows]:
        rng = np.random.default_rng(self.seed)
        return lambda rows, training: stacked(
            _asked_again(compression(rng, vocab_size=self.vocab_size, seq_len=rows.length)[0])
            for _ in range(rows.examples)
        )

    @property
    def longest(self) -> int:
        return 2 * super().longest - 2


def compression(
    rng: np.random.Generator,
    *,
    vocab_size: int,
    seq_len: int,
    noise_vocab_size: int = 0,
    frac_noise: float = 0.0,
) -> Row:
    """One row of the authors': (inputs, labels), which are the same, with the marker at the end.

    With `frac_noise` that share of the tokens becomes noise, which is asked for as well: the authors drop their mask.
    """
    tokens = vocab_size - 1 - noise_vocab_size
    row = [*rng.integers(0, tokens, size=seq_len - 1).tolist(), vocab_size - 1]
    for place in range(seq_len - 1) if frac_noise > 0 else ():
        if rng.random() < frac_noise:
            row[place] = tokens + int(rng.integers(0, noise_vocab_size))
    return row, row


def _asked_again(tokens: list[int]) -> Row:
    """The row with its tokens asked for in order at the marker and at further markers."""
    data, marker = tokens[:-1], tokens[-1]
    return data + [marker] * len(data), [IGNORED] * len(data) + data
