"""Blocks of knobs: choices, ranges, knobs an architecture lacks, labels, and how a grid runs through them."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from recallfront.models.configs import architectures
from recallfront.sweeps.space import Range, RawBlock, read_blocks, split_knobs
from tests.platform.specs import tiny_spec


def domain(value: Any, *, architecture: str = "window", knob: str = "window_size") -> Any:
    raw = TypeAdapter(RawBlock).validate_python({"architecture": architecture, knob: value})
    (block,) = read_blocks((raw,))
    return block.domains[knob]


def test_a_scalar_is_one_choice_and_a_list_are_several() -> None:
    assert domain(8) == (8,)
    assert domain([4, 8]) == (4, 8)
    (block,) = read_blocks(({"architecture": "window", "window_size": [4, 8], "norm": "layer"},))
    assert set(block.domains) == {"window_size", "norm"} and set(block.varying) == {"window_size"}


def test_values_become_what_their_field_takes() -> None:
    assert domain(8.0) == (8,)
    with pytest.raises(ValueError, match="window_size='8': '8' is text, not a number"):
        domain("8")
    with pytest.raises(ValueError, match="true is not a number"):
        domain(True)
    assert domain("3e-3", knob="training.learning_rate") == (0.003,)
    assert domain([None, 2], knob="num_kv_heads") == (None, 2)


def test_a_range_takes_the_numbers_of_its_knob() -> None:
    whole = domain({"low": 2.0, "high": 9})
    assert whole == Range(low=2, high=9) and whole.is_integer
    real = domain({"low": 0, "high": 1}, knob="training.weight_decay")
    assert not real.is_integer, "a whole end does not make a real knob whole"
    assert domain({"low": "1e-4", "high": "1e-2", "log": True}, knob="training.learning_rate") == Range(
        low=1e-4, high=1e-2, log=True
    )


def test_a_range_ends_at_its_last_step() -> None:
    assert domain({"low": 2, "high": 9, "step": 3}).values() == [2, 5, 8]
    assert domain({"low": 2, "high": 9, "step": 3}).high == 8
    decimals = domain({"low": 0.1, "high": 0.35, "step": 0.1}, knob="training.weight_decay")
    assert decimals.values() == [0.1, 0.2, 0.3]
    assert domain({"low": 2, "high": 5}).values() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"low": 4, "high": 4}, "low=4: must be below high=4"),
        ({"low": 0, "high": 4}, r"space\[0\].window_size=0: input should be greater"),
        ({"low": 1, "high": 4, "log": True, "step": 1}, "step=1: cannot be combined with log: true"),
        ({"low": 1, "high": 4, "step": 0.5}, "step=0.5: must be a whole number"),
        ({"low": 1, "high": 4, "step": 0}, "greater than 0"),
        ({"low": "a", "high": 4}, "low"),
        ([], "is an empty list"),
        ([4, 4.0], "each value may appear only once"),
        (0, r"space\[0\].window_size=0: input should be greater than or equal to 1"),
        ("wide", "input should be a valid integer"),
        (None, "input should be a valid integer"),
    ],
)
def test_values_that_can_never_be_are_refused(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny_spec(space=[{"architecture": "window", "window_size": value}])


def test_a_logarithmic_range_is_positive() -> None:
    with pytest.raises(ValueError, match="low=0.0: must be above 0 with log: true"):
        domain({"low": 0.0, "high": 1.0, "log": True}, knob="training.weight_decay")


@pytest.mark.parametrize("knob", ["pattern", "tied_embeddings", "norm"])
def test_only_numbers_have_ranges(knob: str) -> None:
    with pytest.raises(ValueError, match=rf"space\[0\].{knob}"):
        domain({"low": 0, "high": 1}, knob=knob)


def test_a_null_says_that_only_others_have_the_knob() -> None:
    (block,) = read_blocks(({"architecture": "attention", "window_size": None, "group_size": None},))
    assert block.domains == {}
    with pytest.raises(ValueError, match=r"space\[0\].windw_size=null: .* has no such knob"):
        read_blocks(({"architecture": "attention", "windw_size": None},))


def test_repeated_architectures_have_labels_of_their_own() -> None:
    blocks = read_blocks(
        (
            {"architecture": "window", "window_size": 4},
            {"architecture": "hawk"},
            {"architecture": "window", "window_size": 8},
        )
    )
    assert [block.label for block in blocks] == ["window1", "hawk", "window2"]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"architecture": "windw"}, "architecture='windw': must be one of window, attention,"),
        ({"window_size": 4}, "architecture=null: must be one of"),
        (
            {"architecture": "window", "feature_dim": 4},
            "space\\[0\\].feature_dim=4: architecture 'window' has no",
        ),
        (
            {"architecture": "window", "vocab_size": 64},
            "space\\[0\\].vocab_size=64: architecture 'window' has no",
        ),
        ({"architecture": "window", "training.lerning_rate": 1}, "it has learning_rate,"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_first(block: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_blocks((block,))


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ValueError, match="space: is empty"):
        read_blocks(())


def test_training_knobs_reach_the_training() -> None:
    spec = tiny_spec(
        space=[{"architecture": "hawk", "training.learning_rate": [1e-3, 1e-2], "lru_width": 16}]
    )
    trials = [spec.trial(block, knobs, seed=3) for block, knobs in spec.grid()]
    assert [trial.training.learning_rate for trial in trials] == [1e-3, 1e-2]
    assert {trial.training.steps for trial in trials} == {20} and {t.seed for t in trials} == {3}
    assert split_knobs({"lru_width": 16, "training.steps": 2}) == ({"lru_width": 16}, {"steps": 2})


def test_a_grid_is_every_combination_in_order() -> None:
    spec = tiny_spec(
        space=[
            {"architecture": "based", "feature_dim": [2, 4], "window_size": {"low": 4, "high": 8, "step": 4}},
            {"architecture": "attention"},
        ]
    )
    found = [(block.label, *knobs.values()) for block, knobs in spec.grid()]
    assert found == [("based", 2, 4), ("based", 2, 8), ("based", 4, 4), ("based", 4, 8), ("attention",)]
    assert [block.size for block in spec.blocks] == [4, 1]


@pytest.mark.parametrize(
    ("space", "configurations"),
    [
        ([{"architecture": "window", "window_size": own} for own in ([4, 8], [8, 16])], 3),
        ([{"architecture": "window", "training.steps": own} for own in ([10, 20], [20, 30])], 3),
        ([{"architecture": "window"}, {"architecture": "window", "training.steps": [20, 40]}], 2),
        # 16 is the default of both
        ([{"architecture": "based"}, {"architecture": "based", "feature_dim": [16, 8]}], 2),
        ([{"architecture": "based", "window_size": 16}, {"architecture": "based", "feature_dim": 16}], 1),
        (
            [
                {
                    "architecture": "hybrid",
                    "mixers": {"D": {"mixer": "gated_deltanet"}, "A": {"mixer": "attention"}},
                    "pattern": ["CD", "CDA"],
                    "A.positions": ["none", "rope"],
                }
            ],
            3,
        ),
    ],
)
def test_a_grid_has_once_what_its_space_gives_twice(space: list[dict[str, Any]], configurations: int) -> None:
    """Blocks may overlap, and a pattern may leave out the letter of a knob that varies."""
    spec = tiny_spec(space=space, seeds=[0, 1])
    keys = [spec.trial(block, knobs, 0).key for block, knobs in spec.grid()]
    assert len(keys) == len(set(keys)) == configurations
    assert spec.number_of_trials == 2 * configurations


def test_a_knob_goes_before_the_shared_setting() -> None:
    spec = tiny_spec(space=[{"architecture": "attention", "width": 32}, {"architecture": "hawk"}])
    assert [spec.trial(block, knobs, 0).model.width for block, knobs in spec.grid()] == [32, 16]


@pytest.mark.parametrize("name", sorted(architectures().keys() - {"hybrid"}))
def test_every_architecture_makes_a_trial(name: str) -> None:
    spec = tiny_spec(space=[{"architecture": name}])
    trial = spec.trial(spec.blocks[0], {}, 0)
    assert trial.model.architecture == name and trial.model.vocab_size == 32
