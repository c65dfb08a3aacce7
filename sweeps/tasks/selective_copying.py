"""Selective copying (S4, Mamba arXiv:2312.00752, Griffin arXiv:2402.19427): data tokens among noise, to be repeated.

| input | 0 a 0 0 b 0 ... c 0 | marker marker marker |
| label |                     |   a      b      c    |

Rows equal those of S4's generator. Of `vocab_size` tokens 0 is noise and the last is the marker.

torch is imported when rows are built, so that the command starts fast.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, DrawnRows, DrawnTask


class SelectiveCopying(DrawnTask[DrawnRows]):
    """Data tokens to be repeated in order; `length` counts noise, data and answers."""

    name: Literal["selective_copying"] = "selective_copying"
    vocab_size: int = Field(
        default=16, ge=3, le=2**24, description="Number of tokens, noise and marker included."
    )
    num_tokens_to_copy: int = Field(default=16, ge=1, description="Data tokens of a row.")
    variable: bool = Field(
        default=True, description="Whether the data is spread over the row; otherwise it comes first."
    )
    reverse: bool = Field(default=False, description="Whether the data is asked for backwards.")
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    @model_validator(mode="after")
    def _data_fits(self) -> Self:
        for rows in (*self.train, *self.validation, *self.test):
            if rows.length < 2 * self.num_tokens_to_copy:
                raise ValueError(
                    f"length={rows.length}: must be at least 2 * num_tokens_to_copy = {2 * self.num_tokens_to_copy}"
                )
        return self

    def draw(self, rows: DrawnRows, seed: int) -> tuple[Integers, Integers]:
        return selective_copying(
            num_examples=rows.examples,
            noise=rows.length - 2 * self.num_tokens_to_copy,
            data=self.num_tokens_to_copy,
            vocab_size=self.vocab_size,
            seed=seed,
            variable=self.variable,
            reverse=self.reverse,
        )


def selective_copying(
    *,
    num_examples: int,
    noise: int,
    data: int,
    vocab_size: int,
    seed: int,
    variable: bool = True,
    reverse: bool = False,
) -> tuple[Integers, Integers]:
    """The rows as (inputs, labels), int64 (num_examples, noise + 2 data)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    size = (num_examples, data)
    tokens = torch.randint(1, vocab_size - 1, size, generator=generator).numpy()
    if variable:
        drawn = [torch.randperm(noise + data, generator=generator)[:data] for _ in range(num_examples)]
        places = np.sort(torch.stack(drawn).numpy(), axis=1)
    else:
        places = np.broadcast_to(np.arange(data), size)
    inputs = np.zeros((num_examples, noise + 2 * data), dtype=np.int64)
    labels = np.full_like(inputs, IGNORED)
    np.put_along_axis(inputs, places, tokens, axis=1)
    inputs[:, noise + data :] = vocab_size - 1
    labels[:, noise + data :] = tokens[:, ::-1] if reverse else tokens
    return inputs, labels
