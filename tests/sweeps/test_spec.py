"""A specification's identity, objectives, schema, and what of it is refused before anything is computed."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

import recallfront
from recallfront.models.configs import architectures
from recallfront.sweeps import SpecError, SweepSpec
from recallfront.sweeps.load import parse_spec
from recallfront.sweeps.schema import schema_text, specification_schema
from recallfront.sweeps.space import RawBlock
from recallfront.sweeps.suite import TASKS
from tests.platform.specs import SEGMENT, TINY, tiny, tiny_spec


def refusal(**changes: Any) -> str:
    """The message that a changed specification is refused with."""
    with pytest.raises(SpecError) as refused:
        parse_spec(yaml.safe_dump(tiny(**changes)), source="f.yaml")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_setting_that_is_not_used_leaves_keys_as_they_were() -> None:
    spec = SweepSpec.model_validate(TINY)
    told = spec.measurement.model_dump(mode="json")
    assert not {"contexts", "memory_gb", "roofline", "also"} & told.keys()
    # recorded before there were these settings
    assert spec.trial(spec.blocks[0], {}, 0).key.startswith("723bb7af711d7bc8")
    for more in ({"contexts": [64]}, {"roofline": True}):
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


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"objectives": [{"metric": "accuracy"}, {"metric": "decode_tokens_per_second"}]},
            "objectives[0].metric='accuracy': must be one of ",
        ),
        (
            {"task": {"train": [SEGMENT | {"examples": 0}]}},
            "task.train[0].examples=0: input should be greater than 0",
        ),
    ],
    ids=["an objective", "a segment of the task"],
)
def test_of_a_list_with_a_wrong_member_only_the_member_is_told(changes: dict[str, Any], told: str) -> None:
    message = refusal(**changes)
    assert message.startswith(f"f.yaml: {told}") and "needs at least" not in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"model": {"width": [16, 32]}},
            "model.width=[16, 32]: must be one value; put what is explored under space, as",
        ),
        (
            {"model": {"window_size": {"low": 1, "high": 4}}},
            "model.window_size={'high': 4, 'low': 1}: must be one value",
        ),
        ({"training": {"steps": [10, 20]}}, "under space, as training.steps"),
        (
            {"training": {"window_size": 4}},
            "training.window_size: is a setting of the model; put it under space, or",
        ),
        (
            {"model": {"learning_rate": 0.1}},
            "model.learning_rate: is a setting of the training; write training.learning",
        ),
        (
            {"space": [{"architecture": "window", "steps": 3}]},
            "space[0].steps: is a setting of the training; write",
        ),
    ],
    ids=[
        "values in model",
        "a range in model",
        "values in training",
        "a knob in training",
        "steps in model",
        "in space",
    ],
)
def test_a_knob_in_the_wrong_place_is_sent_to_its_own(changes: dict[str, Any], told: str) -> None:
    message = refusal(**changes)
    assert told in message and message.count(";") == 1


@pytest.mark.parametrize(
    ("search", "told"),
    [
        (
            {"method": "tpe", "trials": 20, "population": 8},
            "population=8: it is a setting of method nsga2, not of tpe",
        ),
        ({"startup_trials": 3}, "startup_trials=3: it is a setting of method tpe, gp or front, not of grid"),
    ],
    ids=["population", "startup"],
)
def test_a_setting_of_another_method_is_refused(search: dict[str, Any], told: str) -> None:
    assert told in refusal(search=search)


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
        (
            "training: {learning_rate: 3e-3}",
            "training: {learning_rate: 0.003}",
        ),  # YAML reads the first as a word
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


def test_the_schema_describes_every_key() -> None:
    schema = specification_schema()
    assert set(schema["properties"]) == {*SweepSpec.model_fields, TASKS}
    assert schema["required"] == ["name", "space"]
    assert schema["oneOf"] == [{"required": ["task"]}, {"required": [TASKS]}], "a sweep, or a suite of them"
    assert schema["additionalProperties"] is False
    assert {"TrainingConfig", "MeasurementConfig", "Range", "MQARConfig"} <= set(schema["$defs"])
    blocks = {name.removesuffix(" block") for name in schema["$defs"] if name.endswith(" block")}
    assert blocks == set(architectures())


def test_the_schema_in_the_documentation_is_of_this_version() -> None:
    path = Path(recallfront.__file__).parents[1] / "docs" / "sweep.schema.json"
    assert path.read_text() == schema_text(), "python -m recallfront.sweeps.schema > docs/sweep.schema.json"


@pytest.mark.parametrize(
    ("block", "fits"),
    [
        ({"architecture": "window", "window_size": [4, 8]}, True),
        ({"architecture": "window", "window_size": {"low": 4, "high": 8}}, True),
        ({"architecture": "attention", "training.learning_rate": [1e-3, 3e-3]}, True),
        ({"architecture": "window", "feature_dim": 4}, False),
        ({"architecture": "window", "window_size": 0}, False),
        ({"architecture": "window", "window_size": []}, False),
        ({"architecture": "atention"}, False),
        ({"window_size": 4}, False),
    ],
    ids=str,
)
def test_the_schema_knows_the_knobs_of_each_architecture(block: dict[str, Any], fits: bool) -> None:
    validator = jsonschema.Draft202012Validator(specification_schema())
    study = yaml.safe_load(
        (resources.files("recallfront.sweeps") / "studies" / "quickstart.yaml").read_text()
    )
    assert validator.is_valid(study)
    assert validator.is_valid(study | {"space": [block]}) is fits


def test_a_specification_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        tiny_spec().name = "other"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"budget_hours": 2}, "budget_hours=2: is now written as budget: {hours: 2}"),
        ({"budget": {"steps": 2}}, "budget.steps: unknown key; allowed are"),
        ({"training": {"stop_at": {"recall": 1.5}}}, "training.stop_at.recall=1.5"),
        (
            {
                "search": {"method": "front", "trials": 3},
                "objectives": [{"metric": "state_bytes"}, {"metric": "decode_tokens_per_second"}],
            },
            "search.method='front': models one recall; the objectives have none",
        ),
        (
            {
                "early_stopping": {"first_rung_steps": 5},
                "objectives": [{"metric": "state_bytes"}, {"metric": "parameters"}],
            },
            "early_stopping: stops by recall, which is not among objectives=['state_bytes', 'parameters']",
        ),
        (
            {"early_stopping": {"first_rung_steps": 11}, "training": {"evaluate_every": 10}},
            "early_stopping.first_rung_steps=11: no trial is evaluated between this step and its last (20)",
        ),
        ({"bogus": 1}, "bogus: unknown key; allowed are"),
        ({"trainign": {}}, "trainign: unknown key; allowed are training,"),
        ({"training": {"stepz": 3}}, "training.stepz: unknown key; allowed are steps,"),
        (
            {"measurement": {"deployment": {"widht": 8}}},
            "measurement.deployment.widht: unknown key; allowed are width,",
        ),
        ({"task": {"trian": []}}, "task.trian: unknown key; allowed are train,"),
        ({"task": {"train": [SEGMENT]}}, "task.train[0].examples: is missing; needed are examples,"),
        ({"training": {"steps": "many"}}, "training.steps='many': input should be a valid integer"),
        ({"training": {"steps": 0}}, "training.steps=0: input should be greater than or equal to 1"),
        (
            {"training": {"learning_rate": float("inf")}},
            "training.learning_rate=inf: input should be a finite",
        ),
        ({"training": {"precision": "float16"}}, "input should be 'float32' or 'bfloat16'"),
        ({"training": 3}, "training=3: must be a mapping of keys to values"),
        ({"model": {"widht": 3}}, "model.widht: architecture 'attention' has no such knob; it has width,"),
        ({"model": {"width": -3}}, "model.width=-3: input should be greater than or equal to 1"),
        ({"task": {"name": "mqr"}}, "task.name='mqr': must be one of mqar"),
        ({"task": {"test": []}}, "task.test=[]: needs at least 1"),
        ({"task": {"vocab_size": 16}}, "vocab_size=16: must be above input_seq_len=16"),
        ({"search": {"method": "bayes"}}, "search.method='bayes': input should be 'grid',"),
        ({"search": {"method": "tpe"}}, "trials: is missing; method 'tpe'"),
        ({"search": {"trials": 3}}, "trials=3: a grid tries every configuration"),
        ({"objectives": [{"metric": "recall"}]}, "needs at least 2"),
        (
            {"objectives": [{"metric": "recall"}] * 2},
            "objectives=['recall', 'recall']: each metric may appear only once",
        ),
        ({"objectives": [{"metric": "recal"}]}, "objectives[0].metric='recal': must be one of recall,"),
        ({"seeds": []}, "seeds=[]: needs at least 1"),
        ({"seeds": [0, 0]}, "seeds=[0, 0]: each seed may appear only once"),
        ({"seeds": [0, -1]}, "seeds[1]=-1: input should be greater than or equal to 0"),
        ({"seeds": 3}, "seeds=3: must be a list"),
        ({"name": "a b"}, "name='a b': string should match pattern"),
        ({"resources": {"workers": 2, "gpus": 0.5}}, "gpus=0.5: must be a whole number with workers=2"),
        ({"measurement": {"repeats": 9, "max_repeats": 4}}, "max_repeats=4: must be at least repeats=9"),
        (
            {"measurement": {"batch_size": "all"}},
            "measurement.batch_size='all': must be a number of rows from 1 to 16777216, or 'max'",
        ),
        ({"measurement": {"batch_size": 0}}, "measurement.batch_size=0: must be a number of rows from 1"),
        ({"measurement": {"batch_size": "8"}}, "measurement.batch_size='8': must be a number of rows"),
        (
            {"measurement": {"batch_size": "max"}},
            "measurement.batch_size='max': on a CPU it needs measurement.memory_gb",
        ),
        ({"measurement": {"memory_gb": 2}}, "measurement.memory_gb=2: is a setting of batch_size: max"),
        (
            {"measurement": {"batch_size": "max", "memory_gb": 2}, "resources": {"memory_gb": 1.5}},
            "measurement.memory_gb=2: must be below resources.memory_gb=1.5",
        ),
        ({"measurement": {"contexts": [64, 64]}}, "contexts=[64, 64]: each context may appear only once"),
        ({"measurement": {"contexts": [0]}}, "measurement.contexts[0]=0: input should be greater than"),
        (
            {"measurement": {"contexts": [128]}, "model": {"learned_positions": 100}},
            "learned_positions=100: must be at least 132, the longest measured text",
        ),
        *(
            (
                {"objectives": [{"metric": "recall"}, {"metric": metric}], "measurement": {"contexts": [64]}},
                why,
            )
            for metric, why in (
                (
                    "decode_tokens_per_second_at_128",
                    "objectives: metric='decode_tokens_per_second_at_128': 128 is not among "
                    "measurement.contexts=[64]",
                ),
                (
                    "train_tokens_per_second_at_64",
                    "metric='train_tokens_per_second_at_64': must be one of train_tokens_per_second,",
                ),
                ("max_batch_size_at_64", "is measured with measurement.batch_size: max only"),
                ("decode_roofline_share_at_64", "is measured with measurement.roofline: true only"),
                ("decode_joules_per_token", "only GPUs tell their energy, and resources.gpus=0"),
            )
        ),
        (
            {"early_stopping": {"first_rung_steps": 20}},
            "first_rung_steps=20: must be below training.steps=20",
        ),
    ],
    ids=str,
)
def test_a_refusal_names_key_value_and_what_is_allowed(change: dict[str, Any], told: str) -> None:
    assert told in refusal(**change)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"low": 4}, "f.yaml: space[0].window_size.high: is missing; needed are low, high"),
        ({"low": 4, "high": 8, "stp": 2}, "f.yaml: space[0].window_size.stp: unknown key; allowed are step,"),
        ({"low": 4, "high": 2}, "f.yaml: space[0].window_size: low=4: must be below high=2"),
        ([[4]], "f.yaml: space[0].window_size: [4]: must be a number, a word, true, false or null"),
        ([4, float("nan")], "f.yaml: space[0].window_size: nan: must be a finite number"),
    ],
    ids=str,
)
def test_a_wrong_knob_is_told_as_the_form_it_was_meant_in(value: Any, told: str) -> None:
    message = refusal(space=[{"architecture": "window", "window_size": value}])
    assert message.startswith(told) and message.count("space[0]") == 1


@pytest.mark.parametrize("key", ["name", "task", "space"])
def test_what_is_missing_is_named(key: str) -> None:
    text = yaml.safe_dump({k: v for k, v in TINY.items() if k != key})
    with pytest.raises(SpecError, match=f"^f.yaml: {key}: is missing; needed are name, task, space$"):
        parse_spec(text, source="f.yaml")


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"architecture": "attention", "num_heads": 3}, "num_heads is 3, which does not divide width=16"),
        ({"architecture": "window", "window_size": [17, 18]}, "window_size=17: longer than"),
        (
            {"architecture": "hawk", "training.batch_size": 7, "training.accumulation": 2},
            "training.batch_size=7",
        ),
        ({"architecture": "attention", "pattern": "CW"}, "allows the letters C, A"),
        ({"architecture": "attention", "learned_positions": 16}, "learned_positions=16: must be at least 36"),
    ],
)
def test_a_block_in_which_nothing_is_possible_is_refused(block: RawBlock, told: str) -> None:
    message = refusal(space=[{"architecture": "window"}, block])
    assert f"space {block['architecture']}" in message and "no configuration is possible" in message
    assert told in message


def test_a_block_in_which_something_is_possible_is_taken() -> None:
    spec = tiny_spec(space=[{"architecture": "attention", "num_heads": [3, 4]}])
    block = spec.blocks[0]
    assert spec.trial(block, {"num_heads": 4}, 0).model.num_heads == 4
    with pytest.raises(ValueError, match="num_heads is 3, which does not divide width=16"):
        spec.trial(block, {"num_heads": 3}, 0)


def test_a_possible_value_in_the_middle_of_a_range_is_found() -> None:
    search = {"method": "random", "trials": 2}
    space = [{"architecture": "attention", "num_heads": {"low": 3, "high": 5}}]
    assert tiny_spec(space=space, search=search).blocks  # 4 divides the width, 3 and 5 do not


def test_a_deployment_that_cannot_be_is_refused() -> None:
    message = refusal(measurement={"deployment": {"width": 100, "num_heads": 3}})
    assert "measurement.deployment: num_heads is 3, which does not divide width=100" in message


def test_a_grid_of_a_range_needs_a_step_and_has_an_end() -> None:
    def space(**window: Any) -> list[dict[str, Any]]:
        return [{"architecture": "window", "window_size": window}]

    assert "a grid needs a list of values, or a range with a step" in refusal(space=space(low=2, high=4))
    many = {f"training.{k}": {"low": 1, "high": 999, "step": 1} for k in ("steps", "warmup_steps")}
    assert "a grid of 998001 trials" in refusal(space=[{"architecture": "window"} | many])
    assert "gives more than 100000 values" in refusal(space=space(low=1, high=10**9, step=1))
