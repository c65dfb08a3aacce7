"""Noise of MAD's recall tasks: a setting of the task, or of some of its rows."""

from typing import Any

import pytest
import torch

from recallfront.platform.metrics import named_in_condition
from recallfront.sweeps.base import canonical_json
from recallfront.sweeps.stream import NoisyTask
from recallfront.sweeps.tasks.base import SPLITS, Counts
from recallfront.sweeps.tasks.registry import parse_task

NOISE: dict[str, Any] = {"vocab_size": 32, "noise_vocab_size": 16}
TASKS = pytest.mark.parametrize("name", ["mad_in_context_recall", "mad_fuzzy_in_context_recall"])


def make(name: str, *rows: dict[str, Any], **settings: Any) -> NoisyTask:
    """A task whose splits all have these rows, of 64 tokens each."""
    segments = [{"length": 64, "examples": 20} | own for own in rows]
    task = parse_task({"name": name} | NOISE | dict.fromkeys(SPLITS, segments) | settings)
    assert isinstance(task, NoisyTask)
    return task


def noise_in(task: NoisyTask) -> dict[str, float]:
    """The share of noise in the test rows of each segment."""
    first = {"mad_in_context_recall": 16, "mad_fuzzy_in_context_recall": 15}[task.name]
    return {
        found.name: float(((found.inputs[:] >= first) & (found.inputs[:] < first + 16)).float().mean())
        for found in task.build("test")
    }


@TASKS
def test_rows_have_the_noise_that_they_ask_for_or_else_that_of_the_task(name: str) -> None:
    found = noise_in(make(name, {}, {"frac_noise": 0}, {"frac_noise": 0.8}, frac_noise=0.4))
    assert list(found) == ["length_64", "length_64_noise_0", "length_64_noise_80"]
    assert found["length_64_noise_0"] == 0 < found["length_64"] < found["length_64_noise_80"]


@TASKS
def test_noise_of_all_rows_is_that_of_the_task(name: str) -> None:
    of_task, of_rows = make(name, {}, frac_noise=0.4), make(name, {"frac_noise": 0.4})
    for split in SPLITS:
        (one,), (other,) = of_task.build(split), of_rows.build(split)
        assert torch.equal(one.inputs[:], other.inputs[:]) and torch.equal(one.labels[:], other.labels[:])


def test_recall_is_reported_of_the_rows_of_each_share_of_noise() -> None:
    task = make("mad_in_context_recall", {}, {"frac_noise": 0.125})
    names = [segment.name for segment in task.build("test")]
    figures = task.figures({name: Counts(at, 0.0, 4.0, 64) for at, name in enumerate(names, 1)}, {})
    of_noise = "recall_length_64_noise_12_5"
    assert (figures["recall_length_64"], figures[of_noise], figures["recall"]) == (0.25, 0.5, 0.375)
    assert named_in_condition(of_noise) == f"validation_{of_noise}", "it is not taken for a task of a suite"


def test_rows_without_noise_of_their_own_are_what_they_were() -> None:
    assert canonical_json(make("mad_in_context_recall", {})).count("frac_noise") == 1, "that of the task"


def test_noise_of_rows_needs_tokens() -> None:
    with pytest.raises(ValueError, match=r"noise_vocab_size=0: must be at least 1 with frac_noise=0\.3"):
        make("mad_in_context_recall", {}, {"frac_noise": 0.3}, noise_vocab_size=0)
