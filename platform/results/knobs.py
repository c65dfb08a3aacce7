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
    model, flat = model_of(config), dict[str, Scalar]()
    _flatten(model.get("mixers", {}), "", flat)
    _flatten({name: value for name, value in model.items() if name != "mixers"}, "", flat)
    _flatten(config.get("training", {}), "training.", flat)
    for name in ("architecture", "seed"):
        flat.pop(name, None)
    return flat


def _flatten(config: Mapping[str, Any], prefix: str, flat: dict[str, Scalar]) -> None:
    """Add settings to `flat`, with the names of those that they are below before their own."""
    for key, value in config.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{key}.", flat)
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | tuple) else value
