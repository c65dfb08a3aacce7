"""Tiny sweeps for tests: real training, a few seconds a trial at most."""

from typing import Any

import pytest
import yaml

from recallfront.sweeps import SpecError, SweepSpec
from recallfront.sweeps.load import parse_spec

SEGMENT = {"input_seq_len": 16, "num_kv_pairs": 2}

TINY: dict[str, Any] = {
    "name": "tiny",
    "task": {
        "name": "mqar",
        "vocab_size": 32,
        "train": [SEGMENT | {"examples": 256}],
        "validation": [SEGMENT | {"examples": 64}],
        "test": [SEGMENT | {"examples": 64}],
    },
    "model": {"width": 16},
    "space": [{"architecture": "attention"}, {"architecture": "window", "window_size": [4, 8]}],
    "training": {"steps": 20, "batch_size": 16, "evaluate_every": 10, "checkpoint_seconds": 0},
    "measurement": {
        "batch_size": 2,
        "context_length": 32,
        "train_length": 16,
        "decode_tokens": 4,
        "repeats": 3,
        "max_repeats": 3,
    },
}
# settings that are left out of JSON, each other than under `protocol: zoology`
UNLIKE_ZOOLOGY = {
    "stop_at": None,
    "decayed": "matrices",
    "row_order": "shuffled",
    "recall_over": "positions",
}


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny specification with some keys replaced; a mapping updates the one it replaces."""
    spec = dict(TINY)
    for key, value in changes.items():
        merges = isinstance(value, dict) and isinstance(spec.get(key), dict)
        spec[key] = spec[key] | value if merges else value
    return spec


def tiny_spec(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate(tiny(**changes))


def refusal(**changes: Any) -> str:
    """The message that a changed specification is refused with."""
    with pytest.raises(SpecError) as refused:
        parse_spec(yaml.safe_dump(tiny(**changes)), source="f.yaml")
    assert "\n" not in str(refused.value)
    return str(refused.value)
