"""What every task does, and a task from outside the package."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import Field, ValidationError

from recallfront.sweeps.data import prepare
from recallfront.sweeps.load import parse_spec
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.tasks import registry
from recallfront.sweeps.tasks.base import IGNORED, SPLITS, Counts, DrawnRows, DrawnTask, Segment
from recallfront.sweeps.tasks.mqar import MQARConfig, MQARRows
from recallfront.sweeps.trial import TrialConfig


class Echo(DrawnTask[DrawnRows]):
    """Each token is asked for again at once."""

    name: Literal["echo"] = "echo"
    vocab_size: int = Field(default=8, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**32)

    def draw(self, rows: DrawnRows, seed: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.random.default_rng(seed).integers(self.vocab_size, size=(rows.examples, rows.length))
        labels = inputs.copy()
        labels[:, 0] = IGNORED
        return inputs, labels

    def slices(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"low": (labels != IGNORED) & (inputs < self.vocab_size // 2)}


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Echo]]:
    monkeypatch.setattr(registry, "_added", {})
    registry.register(Echo)
    yield Echo


SPEC = """
name: echoes
task:
  name: echo
  train: [{length: 4, examples: 8}]
  validation: [{length: 4, examples: 4}, {length: 8, examples: 4}]
  test: [{length: 4, examples: 4}, {length: 8, examples: 4}, {length: 16, examples: 2}]
model: {width: 16}
space: [{architecture: hawk}]
training: {steps: 2}
objectives: [{metric: recall_at_8}, {metric: decode_tokens_per_second}]
"""


def spec(text: str = SPEC) -> SweepSpec:
    return parse_spec(text, source="f.yaml")


@pytest.mark.usefixtures("echo")
def test_a_task_from_outside_is_one_class() -> None:
    task = spec().task
    assert isinstance(task, Echo) and task.longest == 16
    assert task.lengths("validation") == (4, 8)
    assert "echo" in registry.names() and registry.find("echo") is Echo
    rows = task.build("test")
    assert [(r.name, tuple(r.inputs[:].shape)) for r in rows] == [
        ("length_4", (4, 4)),
        ("length_8", (4, 8)),
        ("length_16", (2, 16)),
    ]
    assert task.questions("test") == 4 * 3 + 4 * 7 + 2 * 15


@pytest.mark.usefixtures("echo")
def test_a_trial_keeps_its_task_whole() -> None:
    task = spec().task
    trial = TrialConfig.model_validate(
        {"model": {"architecture": "hawk", "vocab_size": 8, "width": 16}, "task": task}
    )
    again = TrialConfig.model_validate_json(trial.model_dump_json())
    assert again.task == task and again.key == trial.key
    assert trial.model_dump(mode="json")["task"]["test"][2] == {"length": 16, "examples": 2}


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: echo\n", "name: ecco\n", "task.name='ecco': must be one of echo, "),
        ("length: 16", "length: 0", "task.test[2].length=0: input should be greater than 0"),
        ("length: 16", "lenght: 16", "task.test[2].lenght: unknown key; allowed are length, examples"),
        ("examples: 8}]", "examples: 8}]\n  noise: 3", "task.noise: unknown key; allowed are"),
        (
            "examples: 8}",
            "examples: 90000000}, {length: 100000, examples: 90000}",
            "task: train: 9,360,000,000 tokens; must be",
        ),
        ("recall_at_8", "recall_at_16", "metric='recall_at_16': task.validation has rows of 4, 8 tokens"),
        ("recall_at_8", "recall_at_", "objectives[0].metric='recall_at_'"),
        ("recall_at_8", f"recall_at_{'9' * 5000}", "objectives[0].metric='recall_at_999"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(old: str, new: str, told: str) -> None:
    text = (
        SPEC.replace("length: 4, examples: 8}]", new) if old == "examples: 8}]" and "length" in new else None
    )
    with pytest.raises(ValueError) as refused:
        spec(text or SPEC.replace(old, new, 1))
    assert told in str(refused.value)


@pytest.mark.usefixtures("echo")
def test_the_only_length_of_validation_can_be_an_objective() -> None:
    longer = SPEC.replace(
        "[{length: 4, examples: 4}, {length: 8, examples: 4}]", "[{length: 8, examples: 4}]"
    )
    assert longer != SPEC and spec(longer).objectives[0].reading == "validation_recall_at_8"


def test_a_task_needs_a_name_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_added", {})

    class Nameless(Echo):
        name: str = "nameless"  # type: ignore[assignment]

    class Taken(Echo):
        name: Literal["mqar"] = "mqar"  # type: ignore[assignment]

    with pytest.raises(ValueError, match="task Nameless: write `name: Literal\\['mine'\\] = 'mine'`"):
        registry.register(Nameless)
    with pytest.raises(ValueError, match="task Taken: there is a task 'mqar' already"):
        registry.register(Taken)
    with pytest.raises(KeyError):
        registry.find("echo")


def test_figures_of_segments_lengths_and_slices() -> None:
    task = MQARConfig(
        vocab_size=64,
        train=(MQARRows(input_seq_len=8, num_kv_pairs=1, examples=1),),
        validation=(MQARRows(input_seq_len=8, num_kv_pairs=1, examples=1),),
        test=(MQARRows(input_seq_len=8, num_kv_pairs=1, examples=1),),
    )
    one = {"a": Counts(3, 2.0, 4, 8)}
    assert task.figures(one, {}) == {"recall": 0.75, "loss": 0.5, "recall_at_8": 0.75}
    several = one | {"b": Counts(1, 2.0, 4, 8), "c": Counts(0, 4.0, 2, 16)}
    assert task.figures(several, {"late": Counts(1, 0.0, 2, 16), "never": Counts(0, 0.0, 0, 0)}) == {
        "recall": 0.4,
        "loss": 0.8,
        "recall_a": 0.75,
        "recall_b": 0.25,
        "recall_c": 0.0,
        "recall_at_8": 0.5,
        "recall_at_16": 0.0,
        "recall_late": 0.5,
    }


@pytest.mark.parametrize("name", [name for name in registry.names()])
def test_every_built_in_task_is_found_by_its_name(name: str) -> None:
    task = registry.find(name)
    assert task.model_fields["name"].default == name
    with pytest.raises(ValidationError):
        task.model_validate({"name": name, "no such key": 1})


@pytest.mark.usefixtures("echo")
def test_rows_of_a_task_from_outside_are_kept_as_any_other(tmp_path: object) -> None:
    from pathlib import Path

    from recallfront.sweeps.data import load

    path, digest = prepare(spec().task, Path(str(tmp_path)))
    data = load(path, digest)
    for split in SPLITS:
        for kept, drawn in zip(data.splits[split], spec().task.build(split), strict=True):
            assert isinstance(kept, Segment) and kept.name == drawn.name
            assert torch.equal(kept.inputs[:], drawn.inputs[:]) and torch.equal(
                kept.labels[:], drawn.labels[:]
            )


def test_tested_rows_are_a_thousand_if_nothing_else_is_said() -> None:
    train = [{"length": 16, "examples": 6}]
    tested = [{"length": 16}, {"length": 32, "examples": 8}]
    task = registry.parse_task(
        {"name": "induction_heads", "train": train, "validation": tested, "test": tested}
    )
    told = [{"length": 16, "examples": 1000}, {"length": 32, "examples": 8}]
    same = registry.parse_task({"name": "induction_heads", "train": train, "validation": told, "test": told})
    assert task.model_dump_json() == same.model_dump_json()
    assert [len(segment.inputs) for segment in task.build("test")] == [1000, 8]
    with pytest.raises(ValidationError, match="examples"):
        registry.parse_task(
            {"name": "induction_heads", "train": tested, "validation": tested, "test": tested}
        )
