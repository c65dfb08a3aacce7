"""Configurations of the architectures. This package imports no torch: the sweep's driver parses them."""

from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.baselines import (
    DeltaNetConfig,
    GatedDeltaNetConfig,
    GLAConfig,
    Mamba2Config,
    RetNetConfig,
)
from recallfront.models.configs.explain import explain
from recallfront.models.configs.linear import BasedConfig, GroupedConfig, LinearConfig
from recallfront.models.configs.recurrent import GriffinConfig, HawkConfig
from recallfront.models.configs.softmax import AttentionConfig, WindowConfig

ModelConfig = Annotated[
    AttentionConfig
    | WindowConfig
    | HawkConfig
    | GriffinConfig
    | BasedConfig
    | GroupedConfig
    | LinearConfig
    | Mamba2Config
    | GatedDeltaNetConfig
    | DeltaNetConfig
    | GLAConfig
    | RetNetConfig,
    Field(discriminator="architecture"),
]

_ADAPTER: TypeAdapter[Architecture] = TypeAdapter(ModelConfig)


def parse_config(values: Any) -> Architecture:
    """The configuration that `values` (a mapping with the key `architecture`) describe.

    Raises ValueError, which names the key, the value and what is allowed.
    """
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise ValueError(explain(error, *get_args(get_args(ModelConfig)[0]))) from None


__all__ = [
    "Architecture",
    "AttentionConfig",
    "BasedConfig",
    "DeltaNetConfig",
    "GLAConfig",
    "GatedDeltaNetConfig",
    "GriffinConfig",
    "GroupedConfig",
    "HawkConfig",
    "LinearConfig",
    "Mamba2Config",
    "ModelConfig",
    "RetNetConfig",
    "WindowConfig",
    "parse_config",
]
