"""Hybrids in a sweep: the pattern, the mixers and the knobs of each are knobs, and errors name what is wrong."""

import re
from typing import Any

import jsonschema
import pytest
import yaml

from recallfront.platform.results.knobs import flat_knobs
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.load import parse_spec
from recallfront.sweeps.schema import specification_schema
from recallfront.sweeps.space import Range
from recallfront.sweeps.spec import SweepSpec
from tests.platform.specs import tiny, tiny_spec

MIXERS = {"D": {"mixer": "gated_deltanet"}, "A": {"mixer": "attention", "positions": "none"}}
HYBRID: dict[str, Any] = {
    "architecture": "hybrid",
    "mixers": MIXERS,
    "pattern": ["CD", "CDCDCDCA", "CDCA"],
    "D.state_dim": [4, 8],
}


def test_the_pattern_and_the_knobs_of_each_mixer_are_knobs() -> None:
    spec = tiny_spec(space=[HYBRID])
    models = [spec.trial(block, knobs, 0).model for block, knobs in spec.grid()]
    assert [model.layers for model in models] == [p for p in HYBRID["pattern"] for _ in range(2)]
    assert [model.mixer("D").own["state_dim"] for model in models] == [4, 8] * 3
    assert models[2].mixer("A").own["positions"] == "none"
    assert models[0].letters == "CD", "what a pattern does not use is not part of the configuration"


def test_two_spellings_are_one_sweep_and_trials_survive_json() -> None:
    spec = tiny_spec(space=[HYBRID])
    inner = {"D": MIXERS["D"] | {"state_dim": [4, 8]}, "A": MIXERS["A"]}
    nested = {"architecture": "hybrid", "pattern": HYBRID["pattern"], "mixers": inner}
    assert tiny_spec(space=[nested]).key == spec.key
    assert SweepSpec.model_validate(spec.model_dump(mode="json")).key == spec.key
    trial = spec.trial(*next(spec.grid()), 0)
    assert type(trial).model_validate(trial.model_dump(mode="json")).key == trial.key


def test_the_mixer_itself_is_a_knob() -> None:
    mixers = {"D": {"mixer": ["gla", "retnet"]}, "A": {"mixer": "attention"}}
    spec = tiny_spec(space=[{"architecture": "hybrid", "mixers": mixers, "pattern": "CDA", "D.state_dim": 4}])
    found = [spec.trial(block, knobs, 0).model.mixer("D").name() for block, knobs in spec.grid()]
    assert found == ["gla", "retnet"]


def test_ranges_and_undeclared_short_convolutions() -> None:
    block = HYBRID | {"D.state_dim": {"low": 4, "high": 12, "step": 4}, "C.short_conv_size": [2, 3]}
    spec = tiny_spec(space=[block])
    assert spec.blocks[0].domains["D.state_dim"] == Range(low=4, high=12, step=4)
    sizes = {spec.trial(b, k, 0).model.mixer("C").own["short_conv_size"] for b, k in spec.grid()}
    assert sizes == {2, 3}


def test_knobs_are_told_as_they_are_written() -> None:
    spec = tiny_spec(space=[HYBRID])
    config = spec.trial(*next(spec.grid()), 0).model_dump(mode="json")
    told = flat_knobs(config)
    assert (
        told["D.state_dim"] == 4 and told["D.mixer"] == "gated_deltanet" and "mixers.D.state_dim" not in told
    )


def test_another_size_keeps_the_mixers() -> None:
    mixers = {"R": {"mixer": "rg_lru", "lru_width": 24}, "A": {"mixer": "attention", "num_kv_heads": 1}}
    spec = tiny_spec(space=[{"architecture": "hybrid", "mixers": mixers, "pattern": "CRA"}])
    model = spec.trial(*next(spec.grid()), 0).model
    larger = model.resized(width=2 * model.width, num_layers=6)
    assert larger.layers == "CRACRA"
    assert larger.mixer("R").own["lru_width"] == 48 and larger.mixer("A").own["num_kv_heads"] == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"mixers": {"D": {"mixer": "gated_deltant"}}},
            "space[0].D.mixer='gated_deltant': there is no such mixer; there are g",
        ),
        (
            {"mixers": {"D": {"mixer": None}}},
            "space[0].D.mixer=null: there is no such mixer; there are ",
        ),
        (
            {"mixers": {"D": {"mixer": "gla", "state-dim": 3}}},
            "mixers.D.state-dim=3: mixer 'gla' has no such knob; it has state_dim,",
        ),
        (
            {"mixers": {"D": {"mixer": "glaa", "state-dim": 3}}},
            "mixers.D.mixer='glaa': there is no such mixer; there are gla,",
        ),
        ({"state_dim": 3}, "and training.<setting>; a mixer's knob is written D.state_dim"),
        ({"D.state_dm": 3}, "D.state_dm=3: mixer 'gated_deltanet' has no such knob; it has state_dim,"),
        (
            {"D.state_dim": [4, 0]},
            "D.state_dim=0: input should be greater than or equal to 1 (mixer 'gated_deltanet')",
        ),
        (
            {"D.state_dm": {"low": 2, "high": 8}},
            "D.state_dm={'low': 2, 'high': 8}: mixer 'gated_deltanet' has no",
        ),
        ({"D.width": 3}, "D.width=3: mixer 'gated_deltanet' has no such knob"),
        (
            {"pattern": ["CD", "CDW"]},
            "space[0].mixers: the pattern has W, and mixers declares A, D; declare what it",
        ),
        ({"pattern": ["CD"]}, "space[0].mixers: declares A, which no layer of the pattern has"),
        ({"mixers": [1]}, "mixers=[1]: must be a mapping of letters to mixers"),
        ({"mixers": {"A": "attention"}}, "mixers.A='attention': must be a mixer such as {mixer: attention}"),
        ({"mixers": {"d": {"mixer": "gla"}}}, "'d' is not a letter of a pattern; it must be one of A to Z"),
        ({"mixers": {"D": {"mixer": "gla", "state_dim": 2}}}, "D.state_dim: is given twice"),
        ({"Q.state_dim": 3}, "mixers does not declare Q; declare what it stands for"),
        (
            {"pattern": "CDA", "A.num_kv_heads": 3},
            "mixers.A: num_kv_heads is 3, which must divide num_heads=1",
        ),
    ],
)
def test_errors_name_the_mixer_the_knob_the_value_and_what_is_allowed(
    change: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(yaml.safe_dump(tiny(space=[HYBRID | change])), source="a.yaml")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_of_a_hybrid_without_a_pattern_the_pattern_alone_is_missing() -> None:
    block = {key: value for key, value in HYBRID.items() if key != "pattern"}
    with pytest.raises(SpecError) as error:
        parse_spec(yaml.safe_dump(tiny(space=[block])), source="a.yaml")
    assert "space[0].pattern: is missing; give the letters of the layers" in str(error.value)
    assert not {"num_layers", "vocab_size"} & {*re.findall(r"\w+", str(error.value))}


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"D.mixer": ["gla", "retnet"], "mixers": {"A": {"mixer": "attention"}}}, True),
        ({"mixers": {"A": {"mixer": "attention", "positons": "none"}}}, False),
        ({"mixers": {"A": {"mixer": "atention"}}}, False),
        ({"mixers": {"a": {"mixer": "attention"}}}, False),
        ({"stat_dim": 3}, False),
    ],
)
def test_the_schema_knows_hybrids(change: dict[str, Any], fits: bool) -> None:
    validator = jsonschema.Draft202012Validator(specification_schema())
    assert validator.is_valid(tiny(space=[HYBRID | change])) is fits
