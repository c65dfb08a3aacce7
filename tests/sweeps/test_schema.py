"""The JSON schema of specifications."""

from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import recallfront
from recallfront.models.configs import architectures
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.schema import schema_text, specification_schema
from recallfront.sweeps.suite import TASKS
from recallfront.sweeps.tasks.base import SPLITS


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


@pytest.mark.parametrize(
    ("length", "fits"),
    [
        ({"input_seq_len": 16}, True),
        ({"length": 16}, True),
        ({"length": 0}, False),
        ({"input_seq_len": 16, "length": 16}, False),
        ({}, False),
    ],
    ids=str,
)
def test_the_schema_knows_both_names_of_the_length_of_mqar(length: dict[str, int], fits: bool) -> None:
    study = yaml.safe_load(
        (resources.files("recallfront.sweeps") / "studies" / "quickstart.yaml").read_text()
    )
    rows = [{"num_kv_pairs": 2, "examples": 4} | length]
    task = {"name": "mqar"} | dict.fromkeys(SPLITS, rows)
    validator = jsonschema.Draft202012Validator(specification_schema())
    assert validator.is_valid(study | {"task": task}) is fits
