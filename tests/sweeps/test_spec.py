"""A specification's identity, objectives, notes, and what in it is possible."""

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from recallfront.sweeps import SweepSpec
from recallfront.sweeps.load import parse_spec
from tests.platform.specs import SEGMENT, TINY, refusal, tiny, tiny_spec


def test_a_setting_that_is_not_used_leaves_keys_as_they_were() -> None:
    spec = SweepSpec.model_validate(TINY)
    told = spec.measurement.model_dump(mode="json")
    assert not {"contexts", "memory_gb", "roofline", "also"} & told.keys()
    # recorded before there were these settings
    assert spec.trial(spec.blocks[0], {}, 0).key.startswith("723bb7af711d7bc8")
    for more in ({"contexts": [64]}, {"roofline": True}, {"roofline": False}):
        other = SweepSpec.model_validate(tiny(measurement=more))
        assert other.key != spec.key
        assert other.trial(other.blocks[0], {}, 0).key != spec.trial(spec.blocks[0], {}, 0).key


def test_what_is_not_set_is_no_part_of_an_identity() -> None:
    """Trials and sweeps of before these settings keep their keys."""
    spec = tiny_spec(early_stopping={"first_rung_steps": 5})
    block, knobs = next(spec.grid())
    told = spec.trial(block, knobs, 0).model_dump(mode="json")["training"]
    assert not {"stop_at", "plateau"} & told.keys()
    assert "patience" not in spec.model_dump(mode="json")["early_stopping"]
    solved = tiny_spec(training={"stop_at": {"recall": 0.99}})
    assert solved.trial(block, knobs, 0).key != spec.trial(block, knobs, 0).key


def test_a_record_of_before_there_was_a_budget_can_be_read() -> None:
    assert SweepSpec.model_validate(tiny(budget_hours=None)) == tiny_spec()


@pytest.mark.parametrize(
    "budget",
    [{"description": "other"}, {"concurrent": 3}, {"retries": 0}, {"budget": {"hours": 2.5}}],
    ids=lambda budget: next(iter(budget)),
)
def test_the_budget_is_no_part_of_the_identity(budget: dict[str, Any]) -> None:
    assert tiny_spec(**budget).key == tiny_spec().key


def test_a_search_that_only_draws_at_random_is_told() -> None:
    def notes(**search: Any) -> str:
        return "; ".join(tiny_spec(search=search).notes)

    assert "nsga2 draws its first 16 configurations at random, and trials=10" in notes(
        method="nsga2", trials=10
    )
    assert "lower search.startup_trials" in notes(method="tpe", trials=10)
    assert not notes(method="tpe", trials=11) and not notes(method="nsga2", trials=10, population=4)
    assert not notes() and not notes(method="random", trials=3)


def test_more_trials_are_the_same_sweep() -> None:
    fewer, more = (tiny_spec(search={"method": "tpe", "trials": n}) for n in (3, 5))
    assert fewer.key == more.key != tiny_spec().key


def test_the_order_of_keys_is_no_part_of_the_identity() -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert SweepSpec.model_validate(turned(TINY)).key == tiny_spec().key


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"task": {"vocab_size": 64}},
        {"task": {"seed": 124}},
        {"task": {"test": [SEGMENT | {"examples": 65}]}},
        {"model": {"width": 32}},
        {"model": {"norm": "layer"}},
        {"space": [{"architecture": "attention"}, {"architecture": "window", "window_size": [4, 9]}]},
        {"space": [{"architecture": "window", "window_size": [4, 8]}, {"architecture": "attention"}]},
        {"space": [{"architecture": "attention"}]},
        {"training": {"steps": 21}},
        {"training": {"learning_rate": 0.0031}},
        {"measurement": {"batch_size": 3}},
        {"measurement": {"deployment": {"width": 32}}},
        {"resources": {"cpus": 2}},
        {"resources": {"time_limit_seconds": 60}},
        {"objectives": [{"metric": "recall"}, {"metric": "prefill_tokens_per_second"}]},
        {"objectives": [{"metric": "recall", "reference": 0.1}, {"metric": "decode_tokens_per_second"}]},
        {"search": {"method": "random", "trials": 3}},
        {"search": {"skip_dominated": True}},
        {"training": {"stop_at": {"recall": 0.99}}},
        {"training": {"plateau": {"evaluations": 3}}},
        {"early_stopping": {"first_rung_steps": 5}},
        {"seeds": [1]},
        {"seeds": [0, 1]},
    ],
    ids=str,
)
def test_anything_else_is_another_sweep(change: dict[str, Any]) -> None:
    assert tiny_spec(**change).key != tiny_spec().key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # YAML reads the first as a word
        ("training: {learning_rate: 3e-3}", "training: {learning_rate: 0.003}"),
        ("training: {weight_decay: 1}", "training: {weight_decay: 1.0}"),
        ("model: {mlp_expansion: 2}", "model: {mlp_expansion: 2.0}"),
        (
            "space: [{architecture: window, window_size: 4}]",
            "space: [{architecture: window, window_size: [4]}]",
        ),
        (
            "space: [{architecture: window, window_size: 4.0}]",
            "space: [{architecture: window, window_size: 0x4}]",
        ),
        (
            "space: [{architecture: window, training.learning_rate: [1e-3, 3e-3]}]",
            "space: [{architecture: window, training.learning_rate: [0.001, 0.003]}]",
        ),
        ("space: [{architecture: window, group_size: null}]", "space: [{architecture: window}]"),
        ("search: {method: grid}", ""),
        ("seeds: [0]", ""),
    ],
)
def test_spellings_of_one_value_are_one_sweep(one: str, other: str) -> None:
    texts = [yaml.safe_dump({**TINY, **yaml.safe_load(part or "{}")}) for part in (one, other)]
    assert parse_spec(texts[0], source="a").key == parse_spec(texts[1], source="b").key


@pytest.mark.slow
def test_keys_are_the_same_in_every_process() -> None:
    script = (
        "import json, sys; from recallfront.sweeps import SweepSpec; s = SweepSpec.model_validate_json(sys.argv[1]);"
        "t = s.trial(*next(s.grid()), 0); print(s.key, t.key, t.configuration_key)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, json.dumps(TINY)],
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = tiny_spec()
    trial = here.trial(*next(here.grid()), 0)
    assert found == {f"{here.key} {trial.key} {trial.configuration_key}\n"}
    assert len(here.key) == 64


def test_objectives_select_on_validation_and_minimised_ones_need_a_reference() -> None:
    spec = tiny_spec(
        objectives=[{"metric": "recall"}, {"metric": "state_bytes", "direction": "min", "reference": 1e6}]
    )
    assert [o.reading for o in spec.objectives] == ["validation_recall", "state_bytes"]
    assert "reference=0.0" in refusal(
        objectives=[{"metric": "recall"}, {"metric": "state_bytes", "direction": "min"}]
    )
    assert [o.metric for o in tiny_spec().objectives] == ["recall", "decode_tokens_per_second"]


def test_a_specification_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        tiny_spec().name = "other"


def test_a_block_in_which_something_is_possible_is_taken() -> None:
    spec = tiny_spec(space=[{"architecture": "attention", "num_heads": [3, 4]}])
    block = spec.blocks[0]
    assert spec.trial(block, {"num_heads": 4}, 0).model.num_heads == 4
    with pytest.raises(ValueError, match="num_heads is 3, which must divide width=16"):
        spec.trial(block, {"num_heads": 3}, 0)


def test_a_possible_value_in_the_middle_of_a_range_is_found() -> None:
    search = {"method": "random", "trials": 2}
    space = [{"architecture": "attention", "num_heads": {"low": 3, "high": 5}}]
    assert tiny_spec(space=space, search=search).blocks  # 4 divides the width, 3 and 5 do not
