"""A trial's identity, and the configurations that are impossible."""

from typing import Any

import pytest

from recallfront.sweeps import TrialConfig
from tests.platform.specs import TINY, tiny_spec

TRIAL: dict[str, Any] = {
    "model": {"architecture": "window", "window_size": 4, "width": 16, "vocab_size": 32},
    "task": TINY["task"],
    "training": TINY["training"],
    "measurement": TINY["measurement"],
}


def trial(**changes: Any) -> TrialConfig:
    merged = {
        key: TRIAL.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return TrialConfig.model_validate(TRIAL | merged)


def test_the_key_is_of_the_configuration_alone() -> None:
    spec = tiny_spec(space=[{"architecture": "window", "window_size": [4, 8]}], description="one", retries=0)
    assert spec.trial(spec.blocks[0], {"window_size": 4}, 0).key == trial().key
    assert TrialConfig.model_validate_json(trial().model_dump_json()).key == trial().key
    assert trial(training={"learning_rate": 3e-3}).key == trial(training={"learning_rate": "3e-3"}).key


def test_keys_are_those_of_earlier_versions() -> None:
    """Results belong to keys: a new setting must be one that is left out at its default (`added_field`)."""
    assert trial().key == "f5080b2b6663f1e968bbe08bdfd9e210519ba65d6a9811cf07bccf75f1033c32"
    assert tiny_spec().key == "5b83c079ea9cbcda33a37ff5b4ef158dc78820b2074e840c0e2d171eddfa78f0"
    dropping = trial(model={"attention_dropout": 0.1})
    assert dropping.key != trial().key
    assert TrialConfig.model_validate_json(dropping.model_dump_json()) == dropping


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"model": {"window_size": 5}},
        {"task": {"seed": 5}},
        {"training": {"steps": 21}},
        {"measurement": {"batch_size": 3}},
        {"resources": {"cpus": 2}},
    ],
    ids=str,
)
def test_any_part_changes_the_key(change: dict[str, Any]) -> None:
    assert trial(**change).key != trial().key
    assert (trial(**change).configuration_key == trial().configuration_key) == ("seed" in change)


def test_the_deployment_has_the_trials_knobs_at_another_size() -> None:
    own = trial()
    assert own.deployment_model == own.model
    larger = trial(
        measurement={"deployment": {"width": 64, "num_layers": 6, "num_heads": 4}}
    ).deployment_model
    assert (larger.width, larger.num_layers, larger.num_heads) == (64, 6, 4)
    assert larger.model_dump()["window_size"] == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": {"vocab_size": 33}}, "vocab_size=33: must equal task.vocab_size=32"),
        ({"model": {"window_size": 17}}, "window_size=17: longer than the task's longest row of 16"),
        ({"training": {"batch_size": 6, "accumulation": 4}}, "multiple of accumulation x workers = 4"),
        ({"training": {"batch_size": 9}, "resources": {"workers": 2}}, "accumulation x workers = 2"),
        ({"measurement": {"deployment": {"num_heads": 5}}}, "measurement.deployment: num_heads is 5"),
        ({"model": {"learned_positions": 35}}, "learned_positions=35: must be at least 36"),
        (
            {"training": {"graph": True}},
            "training.graph=true: needs one worker with a GPU, not resources.workers=1 with resources.gpus=0",
        ),
        ({"training": {"graph": True, "zero_stage": 1}}, "graph=true: needs zero_stage=0, not 1"),
        ({"training": {"graph": True, "precision": "bfloat16"}}, "needs precision=float32, not bfloat16"),
        (
            {"training": {"graph": True}, "resources": {"gpus": 1}, "model": {"embedding_dropout": 0.1}},
            "training.graph=true: needs a model without dropout",
        ),
        ({"seed": 2**31}, "less than 2147483648"),
        ({"model": {"architecture": "windw"}}, "windw"),
        ({"bogus": 1}, "bogus"),
    ],
    ids=str,
)
def test_impossible_trials_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        trial(**change)


def test_packed_text_is_not_trained_by_graphs() -> None:
    task = {"name": "text", "source": {"files": "*"}, "length": 64, "restart_positions": False}
    config = TRIAL | {"task": task, "model": TRIAL["model"] | {"vocab_size": 257}, "resources": {"gpus": 1}}
    config["training"] = {"graph": True}
    assert TrialConfig.model_validate(config).training.graph
    config["task"] = task | {"restart_positions": True}
    with pytest.raises(ValueError, match="graph=true: needs task.restart_positions=false"):
        TrialConfig.model_validate(config)


def test_text_without_a_row_to_train_on_is_for_trials_that_do_not_train() -> None:
    task = {"name": "text", "source": {"files": "*"}, "length": 64, "train": {"tokens": 63}}
    without: dict[str, Any] = TRIAL | {"model": TRIAL["model"] | {"vocab_size": 257}, "task": task}
    with pytest.raises(ValueError, match=r"task\.train\.tokens=63: must be at least task\.length=64"):
        TrialConfig.model_validate(without)
    assert TrialConfig.model_validate(without | {"training": {"steps": 0}})


def test_threads_are_whole() -> None:
    assert trial(resources={"cpus": 0.5}).resources.threads == 1
    assert trial(resources={"cpus": 2.5}).resources.threads == 2
