"""The space of a sweep: per-architecture blocks of knobs, checked value by value before anything is computed."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from recallfront.models import ModelConfig
from recallfront.sweeps.base import Frozen
from recallfront.sweeps.trial import TrainingConfig

Scalar = bool | int | float | str | None
Knobs = dict[str, Scalar]  # one value for each knob of a block
TRAINING_PREFIX = "training."
_MOST_CHECKED = 4096  # combinations of a block that are tried when looking for a possible one


class Range(Frozen):
    """Every value from low to high, both included."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}: must be below high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low}: must be above 0 with log: true")
        if self.log and self.step is not None:
            raise ValueError(f"step={self.step}: not possible together with log: true")
        return self

    @property
    def is_integer(self) -> bool:
        return all(isinstance(v, int) for v in (self.low, self.high, self.step or 1))

    def values(self) -> list[int | float]:
        """The values on the grid; two ends where there is no step."""
        if self.step is None:
            return [self.low, self.high]
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [self.low + i * self.step for i in range(count)]


Domain = Range | tuple[Scalar, ...]  # choices; a fixed value is one choice
RawBlock = dict[str, Range | list[Scalar] | Scalar]  # as written in a specification


class Block(Frozen):
    """The knobs of one architecture, each with its domain."""

    label: str  # unique within the space; names the block's parameters for the sampler
    architecture: str
    domains: dict[str, Domain]

    @property
    def varying(self) -> dict[str, Domain]:
        return {k: d for k, d in self.domains.items() if isinstance(d, Range) or len(d) > 1}

    def corners(self) -> Iterator[Knobs]:
        """Every combination of choices and of the grid values of ranges."""
        axes = [d.values() if isinstance(d, Range) else d for d in self.domains.values()]
        for values in itertools.product(*axes):
            yield dict(zip(self.domains, values, strict=True))

    def sample_corners(self) -> Iterator[Knobs]:
        return itertools.islice(self.corners(), _MOST_CHECKED)


def architectures() -> dict[str, type[BaseModel]]:
    """Name of each architecture -> its configuration."""
    union = get_args(ModelConfig)[0]
    return {cls.model_fields["architecture"].default: cls for cls in get_args(union)}


def read_blocks(raw_blocks: tuple[RawBlock, ...]) -> tuple[Block, ...]:
    """Check every key and every value of a space.

    Raises:
        ValueError: an unknown architecture or knob, or a value that its field can never take; names block, key, value.
    """
    if not raw_blocks:
        raise ValueError("space: is empty; give at least one block such as {architecture: attention}")
    names = [raw.get("architecture") for raw in raw_blocks]
    blocks = []
    for index, raw in enumerate(raw_blocks):
        name = names[index]
        label = f"{name}{names[:index].count(name) + 1}" if names.count(name) > 1 else f"{name}"
        blocks.append(_read_block(raw, label, where=f"space[{index}]"))
    return tuple(blocks)


def _read_block(raw: RawBlock, label: str, where: str) -> Block:
    known = architectures()
    name = raw.get("architecture")
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{where}.architecture={name!r}: must be one of {', '.join(sorted(known))}")
    domains = {}
    for key, value in raw.items():
        if key == "architecture" or (value is None and _field(known[name], key) is None):
            continue  # a null says that the architecture has no such knob
        domains[key] = _read_domain(known[name], key, value, where=f"{where}.{key}", architecture=name)
    return Block(label=label, architecture=name, domains=domains)


def _read_domain(
    config: type[BaseModel], key: str, value: Range | list[Scalar] | Scalar, *, where: str, architecture: str
) -> Domain:
    field = _field(config, key)
    if field is None:
        allowed = sorted(set(config.model_fields) - {"architecture", "vocab_size"})
        raise ValueError(
            f"{where}: architecture {architecture!r} has no such knob; it has {', '.join(allowed)}, "
            f"and {TRAINING_PREFIX}<key> for any of {', '.join(TrainingConfig.model_fields)}"
        )
    if isinstance(value, Range):
        for end in (value.low, value.high):
            _check_value(field, end, where)
        return value
    choices = value if isinstance(value, list) else [value]
    if not choices:
        raise ValueError(f"{where}: is an empty list; give at least one value")
    checked = tuple(_check_value(field, choice, where) for choice in choices)
    if len(set(map(repr, checked))) < len(checked):
        raise ValueError(f"{where}={list(checked)}: a value stands there twice")
    return checked


def _field(config: type[BaseModel], key: str) -> TypeAdapter[Any] | None:
    """What validates one value of a knob, or None where there is no such knob."""
    if key.startswith(TRAINING_PREFIX):
        config, key = TrainingConfig, key.removeprefix(TRAINING_PREFIX)
    info = None if key in ("architecture", "vocab_size") else config.model_fields.get(key)
    if info is None:
        return None
    annotation: Any = info.annotation
    return TypeAdapter(Annotated[annotation, *info.metadata] if info.metadata else annotation)


def _check_value(field: TypeAdapter[Any], value: Scalar, where: str) -> Scalar:
    try:
        return field.validate_python(value)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ValueError(f"{where}={value!r}: {error.errors()[0]['msg'].lower()}") from None


def split_knobs(knobs: Mapping[str, Scalar]) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """Part knobs into those of the model and those of the training."""
    model = {k: v for k, v in knobs.items() if not k.startswith(TRAINING_PREFIX)}
    training = {k.removeprefix(TRAINING_PREFIX): v for k, v in knobs.items() if k.startswith(TRAINING_PREFIX)}
    return model, training
