"""Multi-query associative recall: key-value pairs, then queries for the keys (arXiv:2312.04927, section 4).

| position | 0  | 1  | 2  | 3  | 4 | 5  | 6 | 7 | 8  | 9 |
| input    | k1 | v1 | k2 | v2 | . | .  | . | . | k2 | . |   "." is filler
| label    |    |    |    |    |   |    |   |   | v2 |   |   elsewhere -100

The rows are those of the authors' generator, drawn from the same legacy NumPy stream.
"""

from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from recallfront.sweeps.base import Frozen

_MOST_TOKENS = 10**9  # of one split: 16 GB with the labels
IGNORED = -100  # label where nothing is asked
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Segment = tuple[str, Tensor, Tensor]  # name of the slice, inputs, labels


class MQARSegment(Frozen):
    """Rows of one length and one number of pairs; recall is also reported for each such slice."""

    input_seq_len: int = Field(gt=0, le=2**20)
    num_kv_pairs: int = Field(gt=0)
    examples: int = Field(gt=0, le=10**8)

    @property
    def slice_name(self) -> str:
        return f"length_{self.input_seq_len}_pairs_{self.num_kv_pairs}"


class MQARConfig(Frozen):
    """MQAR as a task: what is trained on, what configurations are selected by, and what is reported."""

    name: Literal["mqar"] = "mqar"
    vocab_size: int = Field(default=8192, ge=4, le=2**24)
    train: tuple[MQARSegment, ...] = Field(min_length=1)
    validation: tuple[MQARSegment, ...] = Field(min_length=1)
    test: tuple[MQARSegment, ...] = Field(min_length=1)
    power_a: float = Field(default=0.01, gt=0)
    random_non_queries: bool = True
    seed: int = Field(default=123, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        for split in SPLITS:
            tokens = sum(s.examples * s.input_seq_len for s in getattr(self, split))
            if tokens > _MOST_TOKENS:
                raise ValueError(
                    f"{split}: {tokens:,} tokens; must be at most {_MOST_TOKENS:,}, as a split is held in memory"
                )
        return self

    @model_validator(mode="after")
    def _segments_fit(self) -> Self:
        for segment in (*self.train, *self.validation, *self.test):
            check_shape(
                vocab_size=self.vocab_size,
                input_seq_len=segment.input_seq_len,
                num_kv_pairs=segment.num_kv_pairs,
            )
        return self

    @property
    def longest(self) -> int:
        """The longest row of any split, in tokens."""
        return max(s.input_seq_len for s in (*self.train, *self.validation, *self.test))

    def build(self, split: Split) -> list[Segment]:
        """Draw one split; the seeds of the three splits are disjoint."""
        segments: tuple[MQARSegment, ...] = getattr(self, split)
        rows = []
        for segment, seed in zip(segments, self._seeds()[split], strict=True):
            inputs, labels = mqar(
                vocab_size=self.vocab_size,
                num_examples=segment.examples,
                input_seq_len=segment.input_seq_len,
                num_kv_pairs=segment.num_kv_pairs,
                seed=seed,
                power_a=self.power_a,
                random_non_queries=self.random_non_queries,
            )
            rows.append((segment.slice_name, inputs, labels))
        return rows

    def _seeds(self) -> dict[str, list[int]]:
        """Train seeds from the lower half of the range and held-out ones from the upper, as the authors draw them.

        The first held-out seeds are the test's, so that they equal the authors'; validation takes the next ones that
        are not among them.
        """
        random = np.random.RandomState(self.seed)
        train = random.randint(0, 2**31, size=len(self.train)).tolist()
        test = random.randint(2**31, 2**32, size=len(self.test)).tolist()
        validation: list[int] = []
        while len(validation) < len(self.validation):
            seed = int(random.randint(2**31, 2**32))
            if seed not in test and seed not in validation:
                validation.append(seed)
        return {"train": train, "validation": validation, "test": test}


def mqar(
    *,
    vocab_size: int,
    num_examples: int,
    input_seq_len: int,
    num_kv_pairs: int,
    seed: int,
    power_a: float = 0.01,
    random_non_queries: bool = True,
) -> tuple[Tensor, Tensor]:
    """Draw examples of multi-query associative recall.

    Keys come from 1 .. vocab_size/2 - 1 and values from the upper half of the vocabulary, distinct within an example;
    each key is queried once, at an even distance after the pairs drawn from a power law: p(slot) ~ slot^(power_a - 1).
    With `random_non_queries` the filler is drawn from the whole vocabulary (the original draws it from an unseeded
    global generator; here it follows from `seed`), otherwise it is token 0.

    Returns:
        (inputs, labels), int64 (num_examples, input_seq_len); a query's label stands at the query's own position.

    Raises:
        ValueError: an odd length, a vocabulary not above the length, or pairs and queries that do not fit the length.
    """
    check_shape(vocab_size=vocab_size, input_seq_len=input_seq_len, num_kv_pairs=num_kv_pairs)
    random = np.random.RandomState(seed)
    context = 2 * num_kv_pairs
    num_slots = (input_seq_len - context) // 2

    keys = _draw_rows(random, np.arange(1, vocab_size // 2), num_examples, num_kv_pairs)
    values = _draw_rows(random, np.arange(vocab_size // 2, vocab_size), num_examples, num_kv_pairs)
    weights = power_a * np.arange(1, num_slots + 1) ** (power_a - 1)
    slots = _draw_rows(random, np.arange(num_slots), num_examples, num_kv_pairs, weights / weights.sum())

    inputs = np.zeros((num_examples, input_seq_len), dtype=np.int64)
    labels = np.full((num_examples, input_seq_len), IGNORED, dtype=np.int64)
    inputs[:, 0:context:2] = keys
    inputs[:, 1:context:2] = values
    np.put_along_axis(inputs, context + 2 * slots, keys, axis=1)
    np.put_along_axis(labels, context + 2 * slots, values, axis=1)
    if random_non_queries:
        blank = inputs == 0
        inputs[blank] = random.randint(0, vocab_size, size=int(blank.sum()))
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def check_shape(*, vocab_size: int, input_seq_len: int, num_kv_pairs: int) -> None:
    """Raise ValueError where `num_kv_pairs` pairs and their queries do not fit the length and the vocabulary."""
    if input_seq_len % 2:
        raise ValueError(f"input_seq_len={input_seq_len}: must be even")
    if vocab_size <= input_seq_len:
        raise ValueError(f"vocab_size={vocab_size}: must be above input_seq_len={input_seq_len}")
    if num_kv_pairs < 1 or 4 * num_kv_pairs > input_seq_len:
        raise ValueError(
            f"num_kv_pairs={num_kv_pairs}: must be between 1 and input_seq_len / 4 = {input_seq_len // 4}"
        )
    if num_kv_pairs > vocab_size // 2 - 1:
        raise ValueError(
            f"num_kv_pairs={num_kv_pairs}: vocab_size={vocab_size} has only {vocab_size // 2 - 1} distinct keys"
        )


def _draw_rows(
    random: np.random.RandomState,
    choices: NDArray[np.int64],
    num_rows: int,
    size: int,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Draw `size` distinct choices a row, row after row: the order of draws is part of the golden stream."""
    rows = [random.choice(choices, size=size, replace=False, p=weights) for _ in range(num_rows)]
    return np.array(rows, dtype=np.int64).reshape(num_rows, size)
