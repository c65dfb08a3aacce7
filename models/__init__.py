"""Architectures: configurations, language models built from the operators, checkpoints.

The configurations need no torch; whatever does is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recallfront.models.configs import Architecture, ModelConfig, parse_config

if TYPE_CHECKING:
    from recallfront.models.building import build
    from recallfront.models.checkpoint import load, save
    from recallfront.models.language_model import LanguageModel
    from recallfront.models.pretrained.recurrentgemma import load_recurrentgemma

_LAZY = {
    "build": "building",
    "load": "checkpoint",
    "save": "checkpoint",
    "LanguageModel": "language_model",
    "load_recurrentgemma": "pretrained.recurrentgemma",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"recallfront.models.{_LAZY[name]}"), name)


__all__ = [
    "Architecture",
    "LanguageModel",
    "ModelConfig",
    "build",
    "load",
    "load_recurrentgemma",
    "parse_config",
    "save",
]
