"""MQAR against the rows of the authors' generator, and the properties that every row must have."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recallfront.sweeps.base import canonical_json
from recallfront.sweeps.tasks.base import IGNORED, SPLITS, Task
from recallfront.sweeps.tasks.mqar import MQARConfig, mqar
from recallfront.sweeps.tasks.registry import parse_task

GOLDEN = Path(__file__).parents[1] / "golden" / "mqar.npz"


@pytest.mark.parametrize("index", [0, 1])
def test_rows_equal_the_authors(index: int) -> None:
    golden = np.load(GOLDEN)
    inputs, labels = mqar(**ast.literal_eval(str(golden[f"args_{index}"])), random_non_queries=False)
    np.testing.assert_array_equal(inputs.numpy(), golden[f"inputs_{index}"])
    np.testing.assert_array_equal(labels.numpy(), golden[f"labels_{index}"])


@pytest.mark.parametrize("random_non_queries", [False, True])
@pytest.mark.parametrize(("length", "pairs", "vocab"), [(32, 4, 64), (16, 4, 32), (64, 1, 128)])
def test_every_query_is_answered_by_its_pair(
    length: int, pairs: int, vocab: int, random_non_queries: bool
) -> None:
    inputs, labels = mqar(
        vocab_size=vocab,
        num_examples=50,
        input_seq_len=length,
        num_kv_pairs=pairs,
        seed=7,
        random_non_queries=random_non_queries,
    )
    assert inputs.dtype == labels.dtype == torch.int64
    assert inputs.shape == labels.shape == (50, length)
    assert 0 <= int(inputs.min()) and int(inputs.max()) < vocab
    for row, answers in zip(inputs, labels, strict=True):
        pair_of = {int(row[2 * i]): int(row[2 * i + 1]) for i in range(pairs)}
        asked = (answers != IGNORED).nonzero().flatten()
        assert len(pair_of) == len(set(pair_of.values())) == len(asked) == pairs
        assert all(int(answers[at]) == pair_of[int(row[at])] for at in asked)
        assert all(at >= 2 * pairs and (at - 2 * pairs) % 2 == 0 for at in asked.tolist())


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_pairs_appear_as_often_as_there_are_passes(passes: int) -> None:
    pairs, context = 4, 8 * passes
    arguments: dict[str, Any] = dict(vocab_size=64, num_examples=40, num_kv_pairs=pairs, seed=7)
    inputs, labels = mqar(**arguments, input_seq_len=56, random_non_queries=False, passes=passes)
    once, _ = mqar(**arguments, input_seq_len=56, random_non_queries=False)
    assert torch.equal(inputs[:, :context], once[:, :8].tile(1, passes)), "in the same order"
    # what follows the pairs is drawn as if they stood there once in rows that are as much shorter
    same = mqar(**arguments, input_seq_len=56 - context + 8, random_non_queries=False)
    assert torch.equal(inputs[:, context:], same[0][:, 8:]) and torch.equal(
        labels[:, context:], same[1][:, 8:]
    )
    assert (labels[:, :context] == IGNORED).all()


def test_one_pass_is_no_part_of_a_task_s_identity() -> None:
    rows = [{"input_seq_len": 32, "num_kv_pairs": 4, "examples": 2}]
    settings = {"vocab_size": 64, "train": rows, "validation": rows, "test": rows}
    once, twice = (MQARConfig.model_validate(settings | {"passes": passes}) for passes in (1, 2))
    assert "passes" not in once.model_dump() and once == MQARConfig.model_validate(settings)
    assert twice.model_dump()["passes"] == 2
    (segment,) = twice.build("test")
    assert torch.equal(segment.inputs[:][:, :8], segment.inputs[:][:, 8:16])
    with pytest.raises(
        ValueError, match="num_kv_pairs=4: must be between 1 and input_seq_len / 10 = 3 with passes=4"
    ):
        MQARConfig.model_validate(settings | {"passes": 4})


def test_filler_follows_from_the_seed_and_leaves_the_global_generators_alone() -> None:
    arguments = dict(vocab_size=64, num_examples=8, input_seq_len=32, num_kv_pairs=4)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    first, _ = mqar(**arguments, seed=1)  # type: ignore[arg-type]
    again, _ = mqar(**arguments, seed=1)  # type: ignore[arg-type]
    other, _ = mqar(**arguments, seed=2)  # type: ignore[arg-type]
    after = np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert before[0] == after[0] and torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_seq_len": 31}, "input_seq_len=31"),
        ({"vocab_size": 32}, "vocab_size=32"),
        ({"num_kv_pairs": 9}, "num_kv_pairs=9"),
        ({"num_kv_pairs": 0}, "num_kv_pairs=0"),
        ({"passes": 0}, "passes=0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, int], named: str) -> None:
    arguments = dict(vocab_size=64, num_examples=2, input_seq_len=32, num_kv_pairs=4, seed=0) | change
    with pytest.raises(ValueError, match=named):
        mqar(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mqar", "forgetting_mqar", "compositional_mqar"])
def test_rows_may_call_their_length_as_those_of_other_tasks_do(name: str) -> None:
    def task(**length: Any) -> Task:
        rows = [{"num_kv_pairs": 4, "examples": 2} | length]
        found = parse_task({"name": name, "vocab_size": 64} | dict.fromkeys(SPLITS, rows))
        assert isinstance(found, Task)
        return found

    assert canonical_json(task(length=32)) == canonical_json(task(input_seq_len=32))
    with pytest.raises(ValueError, match="=32: is another name of input_seq_len; give one of them"):
        task(length=32, input_seq_len=32)
    with pytest.raises(ValueError, match="input_seq_len: '32' is text, not a number"):
        task(length="32")
