import pickle
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from recallfront.models import parse_config
from tests.models.cases import CASES, case_config

ALL = ["attention", "window", "hawk", "griffin", "based", "grouped"]
ALL += ["mamba2", "gated_deltanet", "deltanet", "gla", "retnet", "linear", "kda", "rwkv7", "hgrn2"]


def test_importing_the_configurations_needs_no_torch() -> None:
    """Reading one imports the files of its mixers, which do."""
    program = "import sys, recallfront.models; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("architecture", ALL)
def test_defaults_are_the_synthetic_form(architecture: str) -> None:
    config = parse_config({"architecture": architecture, "vocab_size": 64})
    assert config.layers == config.pattern
    assert config.pattern[0] == "C"
    assert config.mlp_width == 0


@pytest.mark.parametrize("architecture", ALL)
def test_a_configuration_survives_json(architecture: str) -> None:
    config = parse_config({"architecture": architecture, "vocab_size": 64})
    assert parse_config(config.model_dump()) == config


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_can_be_pickled(name: str) -> None:
    """As other processes are given one."""
    config = case_config(name)
    found = pickle.loads(pickle.dumps(config))
    assert found == config and type(found) is type(config)
    assert found.model_fields_set == config.model_fields_set


def test_the_pattern_is_repeated_and_cut() -> None:
    config = parse_config({"architecture": "griffin", "vocab_size": 64, "pattern": "RRW", "num_layers": 8})
    assert config.layers == "RRWRRWRR"


def test_the_most_layers_are_told_at_once() -> None:
    """A pattern as long as the model was repeated for each of its layers."""
    begun = time.process_time()
    config = parse_config({"architecture": "attention", "vocab_size": 64, "pattern": "CA" * 5000})
    assert (len(config.layers), config.layers[-3:]) == (10_000, "ACA")
    assert time.process_time() - begun < 1


def test_resized_keeps_the_knobs() -> None:
    config = parse_config({"architecture": "griffin", "vocab_size": 64, "window_size": 7, "lru_width": 96})
    larger = config.resized(width=128, num_layers=6, num_heads=4)
    assert (larger.layers, larger.head_dim) == ("CRWCRW", 32)
    assert larger.model_dump()["window_size"] == 7
    assert larger.model_dump()["lru_width"] == 192
    with pytest.raises(ValidationError, match="num_heads is 5"):
        config.resized(num_heads=5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "attention", "num_heads": 3}, "num_heads is 3, which must divide width=64"),
        ({"architecture": "attention", "num_heads": 4, "num_kv_heads": 3}, "num_kv_heads is 3"),
        ({"architecture": "attention", "width": 0}, "width=0: input should be greater than or equal to 1"),
        ({"architecture": "attention", "positions": "learned"}, "'alibi', 'rope'"),
        ({"architecture": "attention", "window_size": 8}, "window_size: unknown key; allowed are "),
        ({"architecture": "attention", "pattern": "CW"}, "allows the letters C, A"),
        ({"architecture": "attention", "positions": "rope", "num_heads": 64}, "must be even"),
        ({"architecture": "attention", "num_layers": 10_001}, "num_layers=10001: input should be less than"),
        (
            {"architecture": "attention", "pattern": "CA" * 5001},
            "string should have at most 10000 characters",
        ),
        ({"architecture": "window", "window_size": 0}, "greater than or equal to 1"),
        ({"architecture": "window", "window_size": "long"}, "valid integer"),
        ({"architecture": "hawk", "lru_width": 33, "num_heads": 2}, "lru_width=33"),
        ({"architecture": "griffin", "num_heads": 32}, "must be even"),
        ({"architecture": "based", "feature_dim": 0}, "greater than or equal to 1"),
        (
            {"architecture": "grouped", "group_size": 0},
            "^group_size=0: input should be greater than or equal to 1$",
        ),
        ({"architecture": "grouped", "pattern": ""}, "at least 1 character"),
        ({"architecture": "linear", "feature_map": "softmax"}, "'taylor', 'elu'"),
        ({"architecture": "retnet", "state_dim": 3}, "must be even"),
        ({"architecture": "gla", "gate_temperature": 0}, "greater than 0"),
        (
            {"architecture": "hybrid", "mixers": {"A": {"mixer": "attention"}}},
            "^pattern: is missing; needed are vocab_size, pattern$",
        ),
        (
            {
                "architecture": "hybrid",
                "mixers": {"A": {"mixer": "attention", "positons": "rope"}},
                "pattern": "A",
            },
            "positons='rope': mixer 'attention' has no such knob; it has positions",
        ),
        ({"architecture": "grifin"}, "^architecture='grifin'; it must be one of griffin, attention"),
        ({}, "^architecture: is missing; it must be one of attention, based"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config({"vocab_size": 64} | values)


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match="^7: must be a mapping of keys to values$"):
        parse_config(7)
