"""Multi-query associative recall: key-value pairs, then queries for the keys (arXiv:2312.04927, section 4).

| position | 0  | 1  | 2  | 3  | 4 | 5  | 6 | 7 | 8  | 9 |
| input    | k1 | v1 | k2 | v2 | . | .  | . | . | k2 | . |   "." is filler
| label    |    |    |    |    |   |    |   |   | v2 |   |   elsewhere -100

The rows are those of the authors' generator, drawn from the same legacy NumPy stream. With `passes` the pairs appear
several times, one pass after the other (Just Read Twice, arXiv:2407.05483).

torch is imported when rows are built, so that the command starts fast.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from recallfront.models.configs.explain import shown, told
from recallfront.models.configs.frozen import added_field
from recallfront.sweeps.drawing import Integers, draw_rows, draw_slots, fill
from recallfront.sweeps.tasks.base import IGNORED, AlikeRows, DrawnTask, Split, free_examples

if TYPE_CHECKING:
    from torch import Tensor


def _either_length(schema: dict[str, Any]) -> None:
    """A schema has both names of the length, and needs one of them."""
    free_examples(schema)
    keys = schema["properties"]
    meaning = "Another name of `input_seq_len`, that of other tasks; give one of the two."
    also = {"title": "Length", "description": meaning}
    keys["length"] = keys["input_seq_len"] | also
    schema["required"].remove("input_seq_len")
    schema["oneOf"] = [{"required": ["input_seq_len"]}, {"required": ["length"]}]


class MQARRows(AlikeRows):
    """Rows of one length and one number of pairs; recall is also reported for each such segment."""

    model_config = ConfigDict(json_schema_extra=_either_length)

    input_seq_len: int = Field(gt=0, le=2**20, description="Tokens of a row, an even number.")
    num_kv_pairs: int = Field(
        gt=0, description="Pairs of a row; each key is asked for once, so at most a quarter of its tokens."
    )

    @model_validator(mode="before")
    @classmethod
    def _length_has_two_names(cls, values: Any) -> Any:
        """Rows may call their length as those of other tasks do."""
        if not isinstance(values, Mapping) or "length" not in values:
            return values
        length = values["length"]
        if "input_seq_len" in values:
            raise told(
                ("length",), length, f"={shown(length)}: is another name of input_seq_len; give one of them"
            )
        return {"input_seq_len" if name == "length" else name: value for name, value in values.items()}

    @property
    def tokens_per_row(self) -> int:
        return self.input_seq_len

    @property
    def segment(self) -> str:
        return f"length_{self.input_seq_len}_pairs_{self.num_kv_pairs}"


R = TypeVar("R", bound=MQARRows)


class PairsTask(DrawnTask[R], Generic[R]):
    """What MQAR and its variants share: pairs, then queries at distances of a power law, and filler between."""

    vocab_size: int = Field(
        default=8192, ge=4, le=2**24, description="Number of tokens: keys in the lower half, values above."
    )
    power_a: float = Field(
        default=0.01,
        gt=0,
        le=10,
        description="Exponent of the power law of distances from a pair to its query.",
    )
    random_non_queries: bool = Field(
        default=True, description="Whether filler is drawn from the vocabulary; otherwise it is token 0."
    )
    seed: int = Field(default=123, ge=0, lt=2**32, description="Seed of the rows, the same for every trial.")

    def check_length(self, length: int) -> None:
        """Raise ValueError unless rows of pairs can have this length."""
        if length % 2:
            raise ValueError(f"input_seq_len={length}: must be even")
        if self.vocab_size <= length:
            raise ValueError(f"vocab_size={self.vocab_size}: must be above input_seq_len={length}")


class MQARConfig(PairsTask[MQARRows]):
    """MQAR as a task: what is trained on, what configurations are selected by, and what is reported."""

    name: Literal["mqar"] = "mqar"
    passes: int = added_field(
        1,
        ge=1,
        le=2**10,
        description="How often the pairs of a row appear before the queries, in the same order.",
    )

    @model_validator(mode="after")
    def _segments_fit(self) -> Self:
        for rows in (*self.train, *self.validation, *self.test):
            check_pairs(
                vocab_size=self.vocab_size,
                input_seq_len=rows.input_seq_len,
                num_kv_pairs=rows.num_kv_pairs,
                passes=self.passes,
            )
        return self

    def questions(self, split: Split) -> int:
        return sum(rows.examples * rows.num_kv_pairs for rows in self.rows_of(split))

    def draw(self, rows: MQARRows, seed: int) -> tuple[Integers, Integers]:
        return _drawn(
            vocab_size=self.vocab_size,
            num_examples=rows.examples,
            input_seq_len=rows.input_seq_len,
            num_kv_pairs=rows.num_kv_pairs,
            seed=seed,
            power_a=self.power_a,
            random_non_queries=self.random_non_queries,
            passes=self.passes,
        )


def mqar(
    *,
    vocab_size: int,
    num_examples: int,
    input_seq_len: int,
    num_kv_pairs: int,
    seed: int,
    power_a: float = 0.01,
    random_non_queries: bool = True,
    passes: int = 1,
) -> "tuple[Tensor, Tensor]":
    """Draw examples of multi-query associative recall.

    Keys come from 1 .. vocab_size/2 - 1 and values from the upper half of the vocabulary, distinct within an example;
    each key is queried once, at an even distance after the pairs drawn from a power law: p(slot) ~ slot^(power_a - 1).
    With `random_non_queries` the filler is drawn from the whole vocabulary (the original draws it from an unseeded
    global generator; here it follows from `seed`), otherwise it is token 0. The pairs appear `passes` times, in
    the same order (the original has that argument and fails if it is above 1).

    Returns:
        (inputs, labels), int64 (num_examples, input_seq_len); a query's label stands at the query's own position.

    Raises:
        ValueError: an odd length, a vocabulary not above the length, or pairs and queries that do not fit the length.
    """
    import torch

    check_pairs(vocab_size=vocab_size, input_seq_len=input_seq_len, num_kv_pairs=num_kv_pairs, passes=passes)
    inputs, labels = _drawn(
        vocab_size=vocab_size,
        num_examples=num_examples,
        input_seq_len=input_seq_len,
        num_kv_pairs=num_kv_pairs,
        seed=seed,
        power_a=power_a,
        random_non_queries=random_non_queries,
        passes=passes,
    )
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def _drawn(
    *,
    vocab_size: int,
    num_examples: int,
    input_seq_len: int,
    num_kv_pairs: int,
    seed: int,
    power_a: float,
    random_non_queries: bool,
    passes: int,
) -> tuple[Integers, Integers]:
    """The rows of `mqar`, in the order in which the authors draw them."""
    random = np.random.RandomState(seed)
    context = 2 * num_kv_pairs * passes
    keys = draw_rows(random, np.arange(1, vocab_size // 2), num_examples, num_kv_pairs)
    values = draw_rows(random, np.arange(vocab_size // 2, vocab_size), num_examples, num_kv_pairs)
    slots = draw_slots(random, (input_seq_len - context) // 2, num_examples, num_kv_pairs, power_a)

    inputs = np.zeros((num_examples, input_seq_len), dtype=np.int64)
    labels = np.full((num_examples, input_seq_len), IGNORED, dtype=np.int64)
    inputs[:, 0:context:2] = np.tile(keys, passes)
    inputs[:, 1:context:2] = np.tile(values, passes)
    np.put_along_axis(inputs, context + 2 * slots, keys, axis=1)
    np.put_along_axis(labels, context + 2 * slots, values, axis=1)
    if random_non_queries:
        fill(random, inputs, vocab_size)
    return inputs, labels


def check_pairs(*, vocab_size: int, input_seq_len: int, num_kv_pairs: int, passes: int) -> None:
    """Raise ValueError if so many passes of pairs and their queries do not fit the length and the vocabulary."""
    if input_seq_len % 2:
        raise ValueError(f"input_seq_len={input_seq_len}: must be even")
    if vocab_size <= input_seq_len:
        raise ValueError(f"vocab_size={vocab_size}: must be above input_seq_len={input_seq_len}")
    if passes < 1:
        raise ValueError(f"passes={passes}: must be at least 1")
    tokens = 2 * passes + 2  # of each pair and its query
    if num_kv_pairs < 1 or tokens * num_kv_pairs > input_seq_len:
        raise ValueError(
            f"num_kv_pairs={num_kv_pairs}: must be between 1 and input_seq_len / {tokens} = {input_seq_len // tokens}"
            + (f" with passes={passes}" if passes > 1 else "")
        )
    if num_kv_pairs > vocab_size // 2 - 1:
        raise ValueError(
            f"num_kv_pairs={num_kv_pairs}: vocab_size={vocab_size} has only {vocab_size // 2 - 1} distinct keys"
        )
