"""The space of a sweep: per-architecture blocks of knobs, checked value by value before anything is computed."""

import itertools
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from recallfront.models.configs import Architecture, architecture, architectures
from recallfront.models.configs.explain import near_first, shown, told
from recallfront.models.configs.frozen import check_number
from recallfront.models.configs.hybrid import HybridConfig
from recallfront.sweeps.base import Frozen
from recallfront.sweeps.hybrid import check_knob, check_patterns, flat, mixer_kinds, mixer_knob, nested
from recallfront.sweeps.trial import TrainingConfig

Scalar = bool | int | float | str | None
Knobs = dict[str, Scalar]  # one value for each knob of a block
TRAINING_PREFIX = "training."
NOT_KNOBS = frozenset({"architecture", "vocab_size", "mixers"})  # a hybrid's mixers are knobs one by one
_MOST_VALUES = 100_000  # of one range's grid
_SAMPLED = 64  # values of a longer one to look for a possible configuration in
_MOST_LISTED = 4096  # whole numbers of a range without a step


class Range(Frozen):
    """Every value from low to high, both included."""

    low: int | float = Field(description="Smallest value.")
    high: int | float = Field(description="Largest value; must be above `low`.")
    log: bool = Field(default=False, description="Whether samplers draw the logarithm evenly.")
    step: int | float | None = Field(
        default=None, gt=0, description="Distance between values; a grid needs one. Not together with `log`."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}: must be below high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low}: must be above 0 with log: true")
        if self.log and self.step is not None:
            raise ValueError(f"step={self.step}: cannot be combined with log: true")
        if self.step is not None and (self.high - self.low) / self.step > _MOST_VALUES:
            raise ValueError(f"step={self.step}: gives more than {_MOST_VALUES} values; omit it")
        return self

    def __repr__(self) -> str:
        """As a specification has it."""
        return repr(self.model_dump(exclude_defaults=True))

    @property
    def is_integer(self) -> bool:
        return all(isinstance(v, int) for v in (self.low, self.high, self.step or 1))

    def values(self) -> list[int | float]:
        """The values on the grid; without a step those of a short integer range, or two ends."""
        low, high, step = (Decimal(str(v)) for v in (self.low, self.high, self.step or 1))
        if self.step is None and not (self.is_integer and high - low < _MOST_LISTED):
            return [self.low, self.high]
        number = int if self.is_integer else float
        return [number(low + i * step) for i in range(int((high - low) / step) + 1)]

    def samples(self) -> list[int | float]:
        """The same, but of a long integer range many values from all over it; powers of two are among them."""
        values = self.values()
        low, high = self.low, self.high
        if self.step is not None or len(values) > 2 or not (isinstance(low, int) and isinstance(high, int)):
            return values
        found = {low, high, *(2**power for power in range(high.bit_length()) if low <= 2**power <= high)}
        found |= {low + i * (high - low) // _SAMPLED for i in range(_SAMPLED)}
        return sorted(found)


Domain = Range | tuple[Scalar, ...]  # choices; a fixed value is one choice


def _one_form(value: object) -> object:
    """Check a knob in the one form that was meant, so that an error does not list every other form."""
    if isinstance(value, Mapping):
        return Range.model_validate(value)
    for scalar in value if isinstance(value, list | tuple) else [value]:
        if isinstance(scalar, float) and not math.isfinite(scalar):
            raise ValueError(f"{scalar}: must be a finite number")
        if not isinstance(scalar, (Range, *get_args(Scalar))):
            raise ValueError(
                f"{shown(scalar)}: must be a number, a word, true, false or null; a list of these; or a range "
                "{low:, high:, log:, step:}"
            )
    return value


RawKnob = Annotated[Range | list[Scalar] | Scalar, BeforeValidator(_one_form)]
RawBlock = Annotated[dict[str, RawKnob], BeforeValidator(flat)]  # as written in a specification


class SpaceBlock(Frozen):
    """The knobs of one architecture, each with its domain."""

    label: str  # unique within the space; names the block's parameters for the sampler
    architecture: str
    domains: dict[str, Domain]

    @property
    def config(self) -> type[Architecture]:
        """The configuration of the block's architecture."""
        found = architecture(self.architecture)
        assert found is not None
        return found

    def has(self, knob: str) -> bool:
        """Whether the block sets a knob, or its architecture has it in any case."""
        return knob in self.domains or knob in self.config.model_fields

    def settings(self, shared: Knobs, knobs: Knobs) -> dict[str, Any]:
        """What the settings that all blocks share and the block's knobs give a model's configuration."""
        found = {"architecture": self.architecture} | shared | knobs
        return nested(found) if self.is_hybrid else found

    @property
    def is_hybrid(self) -> bool:
        """Whether its knobs are those of mixers, of which a pattern may leave some out."""
        return issubclass(self.config, HybridConfig)

    def filled(self, settings: Knobs) -> dict[str, Any]:
        """A model's settings with the defaults of those that are not set."""
        fields = self.config.model_fields.items()
        defaults = {n: f.get_default(call_default_factory=True) for n, f in fields if not f.is_required()}
        return defaults | settings

    def check_letters(self, shared: Knobs, where: str) -> None:
        """Raise ValueError if the patterns of a hybrid do not fit the mixers that it declares."""
        if self.is_hybrid:
            patterns = self.domains.get("pattern", (shared["pattern"],) if "pattern" in shared else ())
            if not patterns:
                raise ValueError(f"{where}.pattern: is missing; give the letters of the layers, such as CDCA")
            if not isinstance(patterns, Range):
                check_patterns(self.domains, patterns, where)

    @property
    def varying(self) -> dict[str, Domain]:
        return {k: d for k, d in self.domains.items() if isinstance(d, Range) or len(d) > 1}

    @property
    def size(self) -> int:
        """How many combinations `corners` gives."""
        return math.prod(map(len, self._axes()))

    def corners(self) -> Iterator[Knobs]:
        """Every combination of choices and of the values of ranges."""
        for values in itertools.product(*self._axes()):
            yield dict(zip(self.domains, values, strict=True))

    def samples(self) -> dict[str, list[Scalar]]:
        """Values of each knob to look for a possible configuration in: all, or many of a long range of integers."""
        return {k: list(d.samples() if isinstance(d, Range) else d) for k, d in self.domains.items()}

    @property
    def is_sampled(self) -> bool:
        """Whether `samples` leaves values out, so that what it does not have may still be possible."""
        ranges = [domain for domain in self.domains.values() if isinstance(domain, Range)]
        return any(domain.is_integer and len(domain.values()) < len(domain.samples()) for domain in ranges)

    def _axes(self) -> list[tuple[Scalar, ...]]:
        return [tuple(d.values()) if isinstance(d, Range) else d for d in self.domains.values()]


def read_blocks(raw_blocks: tuple[RawBlock, ...]) -> tuple[SpaceBlock, ...]:
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


def _read_block(raw: RawBlock, label: str, where: str) -> SpaceBlock:
    name = raw.get("architecture")
    config = architecture(name) if isinstance(name, str) else None
    if config is None:
        allowed = near_first(name, architectures())
        raise ValueError(f"{where}.architecture={shown(name)}: must be one of {allowed}")
    domains = {}
    for key, value in raw.items():
        if key == "architecture" or (value is None and _is_another_ones(key, config)):
            continue
        of_mixer = mixer_knob(key) if issubclass(config, HybridConfig) else None
        if of_mixer is not None:
            domains[key] = _read_mixer_domain(raw, *of_mixer, where)
        else:
            domains[key] = _read_domain(config, key, value, where=f"{where}.{key}")
    return SpaceBlock(label=label, architecture=str(name), domains=domains)


def _is_another_ones(key: str, config: type[BaseModel]) -> bool:
    """Whether only other architectures have the knob: a null says so."""
    return key not in config.model_fields and _is_of_a_model(key)


def _read_mixer_domain(raw: RawBlock, letter: str, knob: str, block: str) -> Domain:
    """The domain of a knob of a hybrid's mixer, which must be possible for each mixer that the letter may be."""
    kinds, key = mixer_kinds(letter, raw, block), f"{letter}.{knob}"
    where = f"{block}.{key}"
    if knob == "mixer":
        return tuple(kind.name() for kind in kinds)
    for kind in kinds:
        check_knob(kind, knob, raw[key], where)
        try:
            domain = _read_domain(kind, knob, raw[key], where=where)
        except ValueError as error:
            raise ValueError(f"{error} (mixer {kind.name()!r})") from None
    return domain


def _read_domain(
    config: type[BaseModel], key: str, value: Range | list[Scalar] | Scalar, *, where: str
) -> Domain:
    if isinstance(value, Range):
        return _read_range(config, key, value, where)
    choices = value if isinstance(value, list) else [value]
    if not choices:
        raise ValueError(f"{where}: is an empty list; give at least one value")
    checked = tuple(check_value(config, key, choice, where) for choice in choices)
    if len(set(map(repr, checked))) < len(checked):
        raise ValueError(f"{where}={list(checked)}: each value may appear only once")
    return checked


def _read_range(config: type[BaseModel], key: str, value: Range, where: str) -> Range:
    """The range in the numbers that its knob takes, cut to its last step."""
    low, high = (check_value(config, key, end, where) for end in (value.low, value.high))
    if isinstance(low, bool) or not isinstance(low, int | float) or not isinstance(high, int | float):
        raise ValueError(f"{where}: cannot be a range; give a list of values")
    step: int | float | None = value.step
    if step is not None and isinstance(low, int):
        if step % 1:
            raise ValueError(f"{where}: step={step}: must be a whole number, as the knob is")
        step = int(step)
    found = Range(low=low, high=high, log=value.log, step=step)
    return found if step is None else found.model_copy(update={"high": found.values()[-1]})


def check_value(config: type[BaseModel], key: str, value: Scalar, where: str) -> Scalar:
    """One value of a knob as its field takes it.

    Raises:
        ValueError: the architecture has no such knob, or its field can never take the value.
    """
    field = _field(config, key)
    if field is None:
        raise ValueError(f"{where}={shown(value)}: {_unknown_knob(config, key)}")
    try:
        return field.validate_python(value)  # type: ignore[no-any-return]
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}={shown(value)}: {message[0].lower()}{message[1:]}") from None


def check_place(section: str, settings: object) -> None:
    """Raise ValidationError if `model` or `training` of a specification has what belongs under `space`.

    That is several values of a setting, or in `training` a setting of a model.
    """
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        field = TrainingConfig.model_fields.get(key) if section == "training" else None
        knob = f"{TRAINING_PREFIX}{key}" if field is not None else key
        # the two betas are one value, and so is what has keys of its own
        is_one = field is not None and (get_origin(field.annotation) is tuple or _has_keys(field.annotation))
        if isinstance(value, Mapping | list) and not is_one:
            rest = f"={shown(value)}: must be one value; put what is explored under space, as {knob}"
            raise told((section, key), value, rest)
        if section == "training" and field is None and _is_of_a_model(key):
            rest = ": is a setting of the model; put it under space, or under model if all blocks share it"
            raise told((section, key), value, rest)


def _has_keys(annotation: Any) -> bool:
    """Whether a value is a mapping with keys that are declared."""
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in get_args(annotation))


def _is_of_a_model(key: str) -> bool:
    return any(key in kind.model_fields for kind in architectures().values())


def _unknown_knob(config: type[BaseModel], key: str) -> str:
    if key.startswith(TRAINING_PREFIX):
        allowed = near_first(key.removeprefix(TRAINING_PREFIX), TrainingConfig.model_fields)
        return f"training has no such setting; it has {allowed}"
    name = config.model_fields["architecture"].default
    if key in TrainingConfig.model_fields:
        return (
            f"is a setting of the training; write {TRAINING_PREFIX}{key} under space, or {key} under training"
        )
    allowed = near_first(key, config.model_fields.keys() - NOT_KNOBS)
    of_mixers = "; a mixer's knob is written D.state_dim" if issubclass(config, HybridConfig) else ""
    return (
        f"architecture {name!r} has no such knob; it has {allowed}, and {TRAINING_PREFIX}<setting>{of_mixers}"
    )


@cache
def _field(config: type[BaseModel], key: str) -> TypeAdapter[Any] | None:
    """What validates one value of a knob, or None if there is no such knob."""
    if key.startswith(TRAINING_PREFIX):
        config, key = TrainingConfig, key.removeprefix(TRAINING_PREFIX)
    info = None if key in NOT_KNOBS else config.model_fields.get(key)
    if info is None:
        return None
    kind = info.annotation

    def numbers_are_numbers(value: Any) -> Any:
        check_number(value, kind)
        return value

    annotation: Any = Annotated[kind, *info.metadata, BeforeValidator(numbers_are_numbers)]
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def split_knobs(knobs: Mapping[str, Scalar]) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """Part knobs into those of the model and those of the training."""
    model = {k: v for k, v in knobs.items() if not k.startswith(TRAINING_PREFIX)}
    training = {k.removeprefix(TRAINING_PREFIX): v for k, v in knobs.items() if k.startswith(TRAINING_PREFIX)}
    return model, training
