"""What is refused before anything is computed, each time in one sentence with key, value and what is allowed."""

from typing import Any

import pytest
import yaml

from recallfront.sweeps import SpecError
from recallfront.sweeps.load import parse_spec
from recallfront.sweeps.space import RawBlock
from tests.platform.specs import SEGMENT, TINY, refusal


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
            "model.learning_rate=0.1: is a setting of the training; write training.learning",
        ),
        (
            {"space": [{"architecture": "window", "steps": 3}]},
            "space[0].steps=3: is a setting of the training; write",
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
    ("changes", "key"),
    [
        ({"space": [{"architecture": "attention", "num_layers": 10**7}]}, "space[0].num_layers"),
        (
            {"measurement": {"deployment": {"num_layers": 10**7}}},
            "measurement.deployment.num_layers",
        ),
    ],
    ids=["of the trained model", "of the measured model"],
)
def test_more_layers_than_can_be_listed_are_refused(changes: dict[str, Any], key: str) -> None:
    told = f"f.yaml: {key}=10000000: input should be less than or equal to 10000"
    assert refusal(**changes).startswith(told)


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
            {
                "early_stopping": {"first_rung_steps": 5},
                "task": {"validation": [SEGMENT | {"input_seq_len": n, "examples": 8} for n in (8, 16)]},
                "objectives": [{"metric": "recall"}, {"metric": "recall_at_16"}],
            },
            "early_stopping: stops by one recall; the objectives have recall, recall_at_16: keep one of them",
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
        ({"training": {"steps": -1}}, "training.steps=-1: input should be greater than or equal to 0"),
        (
            {"training": {"steps": 0}, "search": {"method": "front", "trials": 4}},
            "search.method='front': learns from trials that train; training.steps=0 leaves none",
        ),
        (
            {"training": {"learning_rate": float("inf")}},
            "training.learning_rate=inf: input should be a finite",
        ),
        ({"training": {"precision": "float16"}}, "input should be 'float32' or 'bfloat16'"),
        ({"training": 3}, "training=3: must be a mapping of keys to values"),
        ({"model": {"widht": 3}}, "model.widht=3: architecture 'attention' has no such knob; it has width,"),
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
        ({"resources": {"gpus": 1.5}}, "gpus=1.5: must be a whole number above 1"),
        ({"measurement": {"repeats": 9, "max_repeats": 4}}, "max_repeats=4: must be at least repeats=9"),
        (
            {"measurement": {"batch_size": "all"}},
            "measurement.batch_size='all': must be a number of rows from 1 to 16777216, or 'max'",
        ),
        (
            {"measurement": {"batch_size": float("inf")}},
            "measurement.batch_size=inf: must be a number of rows from 1",
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
                ("decode_joules_per_token", "only GPUs report their energy, and resources.gpus=0"),
            )
        ),
        (
            {"objectives": [{"metric": "recall"}, {"metric": "decode_roofline_share"}]},
            "metric='decode_roofline_share': is measured with measurement.roofline: true only, or, if that is null, "
            "with contexts or batch_size: max",
        ),
        (
            {
                "objectives": [{"metric": "recall"}, {"metric": "decode_roofline_share"}],
                "measurement": {"contexts": [64], "roofline": False},
            },
            "metric='decode_roofline_share': is measured with measurement.roofline: true only, or, if",
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
        ({"architecture": "attention", "num_heads": 3}, "num_heads is 3, which must divide width=16"),
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
    assert "space[1]: no configuration is possible" in message and told in message


def test_a_deployment_that_cannot_be_is_refused() -> None:
    message = refusal(measurement={"deployment": {"width": 100, "num_heads": 3}})
    assert "measurement.deployment: num_heads is 3, which must divide width=100" in message


def test_a_grid_of_a_range_needs_a_step_and_has_an_end() -> None:
    def space(**window: Any) -> list[dict[str, Any]]:
        return [{"architecture": "window", "window_size": window}]

    assert "a grid needs a list of values, or a range with a step" in refusal(space=space(low=2, high=4))
    many = {f"training.{k}": {"low": 1, "high": 999, "step": 1} for k in ("steps", "warmup_steps")}
    assert "a grid of 998001 trials" in refusal(space=[{"architecture": "window"} | many])
    assert "gives more than 100000 values" in refusal(space=space(low=1, high=10**9, step=1))
