"""The base of every configuration, and what makes one a stable identity."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recallfront.models.configs.frozen import Frozen as Frozen

_SEAL = "sha256"  # key of a sealed document's digest


class SpecError(ValueError):
    """A specification that cannot be run; the message names the file, the key, the value and what is allowed."""


def canonical_json(config: BaseModel | Mapping[str, Any]) -> str:
    """The one JSON text of a configuration: keys sorted, no spaces; equal configurations give equal texts."""
    plain = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def text_digest(text: str | bytes) -> str:
    """sha256 as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def file_digest(file: Path) -> str:
    """sha256 of a file's content as 64 hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def seal(document: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """A JSON document with the digest of its content, for `unseal`; without `indent` it is one line."""
    return json.dumps({**document, _SEAL: text_digest(_plain(document))}, indent=indent)


def unseal(text: str | bytes) -> dict[str, Any]:
    """The document that `seal` wrote.

    Raises:
        ValueError: the text was cut or changed, or was never sealed.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not a JSON document") from error
    if not isinstance(document, dict) or (sealed := document.pop(_SEAL, None)) is None:
        raise ValueError("it has no digest")
    if sealed != text_digest(_plain(document)):
        raise ValueError("its content does not match its digest")
    return document


def _plain(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
