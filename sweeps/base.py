"""The base of every configuration, and what makes one a stable identity."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from recallfront.models.configs.frozen import Frozen as Frozen


def canonical_json(config: BaseModel | Mapping[str, Any]) -> str:
    """The one JSON text of a configuration: keys sorted, no spaces; equal configurations give equal texts."""
    plain = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str | bytes) -> str:
    """sha256 as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
