"""The base of every configuration, and what makes one a stable identity."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A configuration: immutable, and with no key that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_json(config: BaseModel) -> str:
    """The one JSON text of a configuration: keys sorted, no spaces; equal configurations give equal texts."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str | bytes) -> str:
    """sha256 as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
