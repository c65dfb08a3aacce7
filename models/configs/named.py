"""The named architectures: patterns over certain mixers, whose knobs lie flat beside the model's own."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, create_model, model_validator

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.compositions import COMPOSED, SHORT_CONV, Composition, Use
from recallfront.models.configs.explain import explain
from recallfront.models.configs.mixer import MOST_LAYERS, MixerConfig
from recallfront.models.mixers import registry


class NamedArchitecture(Architecture):
    """An architecture that a name stands for."""

    composition: ClassVar[Composition]
    kinds: ClassVar[Mapping[str, type[MixerConfig]]]  # letter -> mixer

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its name: its class is made when it is asked for, and no module has it."""
        return _blank, (self.architecture,), self.__getstate__()

    @property
    def letters(self) -> str:
        return "".join(self.composition.mixers)

    @property
    def mlp_bias(self) -> bool:
        return self.biases or self.composition.mlp_bias

    @model_validator(mode="after")
    def _check_mixers(self) -> Self:
        unknown = sorted(set(self.pattern) - set(self.letters))
        if unknown:
            raise ValueError(
                f"pattern is {self.pattern!r} and contains {', '.join(unknown)}; "
                f"{self.architecture} allows the letters {', '.join(self.letters)}"
            )
        for letter in self.letters:
            try:
                self.mixer(letter)
            except ValidationError as error:
                raise ValueError(explain(error, self.kinds[letter])) from None
        return self

    def mixer(self, letter: str) -> MixerConfig:
        if letter not in self.kinds:
            raise ValueError(f"{self.architecture} has no layer {letter!r}; it has {', '.join(self.letters)}")
        kind, fixed = self.kinds[letter], self.composition.mixers[letter].fixed
        knobs = {name: getattr(self, name) for name in kind.knobs() if name not in fixed}
        return kind(**self.layer_settings, **knobs, **fixed)

    @classmethod
    def keeping(cls, attention: MixerConfig, given: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {"pattern": cls.composition.adopting}
        for letter, kind in cls.kinds.items():
            fixed = cls.composition.mixers[letter].fixed
            kept |= {name: value for name, value in kind.keeping(attention).items() if name not in fixed}
        return kept | dict(given)

    def _change(self, values: dict[str, Any], letter: str, knobs: dict[str, Any]) -> None:
        values.update(knobs)


def _blank(name: str) -> NamedArchitecture:
    """What unpickling fills."""
    kind = named(name)
    if kind is None:
        raise LookupError(f"there is no architecture {name!r}; is its plug-in loaded?")
    return kind.__new__(kind)


def named(name: str) -> type[NamedArchitecture] | None:
    """The configuration of the architecture of that name; None if there is none.

    A mixer's name is an architecture too: the mixer after short convolutions.
    """
    composition = _composition(name)
    if composition is None:
        return None
    return _configuration(name, tuple(registry.get(use.mixer) for use in composition.mixers.values()))


def _composition(name: str) -> Composition | None:
    if name in COMPOSED:
        return COMPOSED[name]
    kind = registry.find(name)
    if kind is None or not kind.is_architecture:
        return None
    about = (kind.__doc__ or name).strip().split("\n")[0]
    uses = {"C": SHORT_CONV, kind.letter: Use(name)}
    return Composition(about, f"C{kind.letter}", uses, adopting=kind.letter)


@lru_cache
def _configuration(name: str, kinds: tuple[type[MixerConfig], ...]) -> type[NamedArchitecture]:
    """The class whose fields are the model's settings and the knobs of its mixers."""
    composition = _composition(name)
    assert composition is not None
    letters = ", ".join(f"{letter} ({use.mixer})" for letter, use in composition.mixers.items())
    pattern = Field(
        min_length=1,
        max_length=MOST_LAYERS,
        description=f"Mixers of the layers, one letter each, of {letters}.",
    )
    fields: dict[str, Any] = {
        "architecture": (Literal[name], name),
        "pattern": (Annotated[str, pattern], composition.pattern),
    }
    for kind, use in zip(kinds, composition.mixers.values(), strict=True):
        for knob, info in kind.knobs().items():
            if knob not in use.fixed:
                told = Field(description=info.description, exclude_if=info.exclude_if)
                kept: Any = Annotated[info.annotation, *info.metadata, told]
                fields[knob] = (kept, use.defaults.get(knob, info.default))
    made = create_model(f"{name.title().replace('_', '')}Config", __base__=NamedArchitecture, **fields)
    made.__doc__ = composition.about
    made.composition, made.kinds = composition, dict(zip(composition.mixers, kinds, strict=True))
    return made
