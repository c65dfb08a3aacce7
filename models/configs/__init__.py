"""Configurations of the architectures. Importing this package imports no torch; reading one imports its mixers."""

from recallfront.models.configs.architectures import ModelConfig, architecture, architectures, parse_config
from recallfront.models.configs.base import Architecture

__all__ = ["Architecture", "ModelConfig", "architecture", "architectures", "parse_config"]
