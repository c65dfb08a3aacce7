"""A trial's settings on one level, as people name them."""

import json
from collections.abc import Mapping
from typing import Any

from recallfront.sweeps.space import Scalar


def model_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings; of an impossible trial, which has no resolved config, all that was asked."""
    found: Mapping[str, Any] = config.get("model", config)
    return found


def flat_knobs(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Settings on one level: the model's by their own name, a hybrid's mixer's as `D.state_dim`, `training.steps`."""
    model = dict(model_of(config))
    flat = (
        _flatten(model.pop("mixers", {}), "")
        | _flatten(model, "")
        | _flatten(config.get("training", {}), "training.")
    )
    return {name: value for name, value in flat.items() if name not in ("architecture", "seed")}


def _flatten(config: Mapping[str, Any], prefix: str) -> dict[str, Scalar]:
    flat: dict[str, Scalar] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat
