"""A block of each architecture, by its name, that a tiny sweep can have."""

from typing import Any

from recallfront.models.configs import architectures

BLOCKS: dict[str, dict[str, Any]] = {name: {"architecture": name} for name in sorted(architectures())}
BLOCKS["hybrid"] |= {
    "mixers": {"D": {"mixer": "gated_deltanet"}, "A": {"mixer": "attention"}},
    "pattern": "CDA",
}
