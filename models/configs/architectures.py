"""The architectures by their names; a configuration is read by its key `architecture`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, TypeAdapter, ValidationError

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.compositions import COMPOSED, HYBRID
from recallfront.models.configs.explain import explain, near_first, retold, shown, told
from recallfront.models.configs.hybrid import HybridConfig
from recallfront.models.configs.named import named
from recallfront.models.mixers import registry


def architecture(name: str) -> type[Architecture] | None:
    """The configuration of the architecture of that name; None if there is none."""
    return HybridConfig if name == HYBRID else named(name)


def architectures() -> dict[str, type[Architecture]]:
    """Name of each architecture -> its configuration; those of added mixers too."""
    names = dict.fromkeys([*COMPOSED, *registry.names(), HYBRID])
    return {name: found for name in names if (found := architecture(name)) is not None}


def _parse(values: Any) -> Architecture:
    if isinstance(values, Architecture):
        return values
    if not isinstance(values, Mapping):
        raise told((), values, f"={shown(values)}: must be a mapping of keys to values")
    name = values.get("architecture")
    kind = architecture(name) if isinstance(name, str) else None
    if kind is None:
        given = f"={shown(name)}" if "architecture" in values else ": is missing"
        rest = f"{given}; it must be one of {near_first(name, architectures())}"
        raise told(("architecture",), name, rest)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise retold(error, kind) from None


ModelConfig = Annotated[SerializeAsAny[Architecture], BeforeValidator(_parse)]
_ADAPTER: TypeAdapter[Architecture] = TypeAdapter(ModelConfig)


def parse_config(values: Any) -> Architecture:
    """The configuration that `values` (a mapping with the key `architecture`) describe.

    Raises ValueError, which names the key, the value and what is allowed.
    """
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise ValueError(explain(error, Architecture)) from None
