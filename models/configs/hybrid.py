"""Any mixer beside any other in one model, each with knobs of its own."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.explain import near_first, retold, shown, told
from recallfront.models.configs.mixer import LayerSettings, MixerConfig
from recallfront.models.mixers import registry

UNDECLARED = {"C": {"mixer": "short_conv"}}  # what a letter means if `mixers` does not say


class HybridConfig(Architecture):
    """Any mixers in one model: `mixers` declares the letters of the pattern; C is the gated short convolution."""

    architecture: Literal["hybrid"] = "hybrid"
    mlp_biases: bool | None = Field(
        default=None,
        description="Whether the channel mixer has biases, as in Griffin; null is the value of `biases`.",
    )
    mixers: dict[str, dict[str, Any]] = Field(
        default={},
        validate_default=True,
        description="For each letter of the pattern `{mixer: NAME}` with that mixer's knobs.",
    )

    @field_validator("mixers", mode="before")
    @classmethod
    def _resolve(cls, given: Any, info: ValidationInfo) -> dict[str, dict[str, Any]]:
        """Every mixer that the pattern uses, with all of its knobs, in the order of their letters."""
        if not isinstance(given, Mapping):
            raise told((), given, f"={shown(given)}: must be a mapping of letters to mixers")
        settings = {name: info.data[name] for name in LayerSettings.model_fields if name in info.data}
        if len(settings) < len(LayerSettings.model_fields) or "pattern" not in info.data:
            return {}  # the error is another field's
        used = set(info.data["pattern"])
        check_letters(used, given)
        declared = {letter: UNDECLARED[letter] for letter in used & UNDECLARED.keys()} | dict(given)
        return {letter: read_mixer(letter, declared[letter], settings).own for letter in sorted(declared)}

    @property
    def letters(self) -> str:
        return "".join(self.mixers)

    @property
    def mlp_bias(self) -> bool:
        return self.biases if self.mlp_biases is None else self.mlp_biases

    def mixer(self, letter: str) -> MixerConfig:
        if letter not in self.mixers:
            raise ValueError(f"the hybrid has no layer {letter!r}; it has {', '.join(self.letters)}")
        return read_mixer(letter, self.mixers[letter], self.layer_settings)

    @classmethod
    def keeping(cls, attention: MixerConfig, given: Mapping[str, Any]) -> dict[str, Any]:
        mixers = given.get("mixers", {})
        if not isinstance(mixers, Mapping):
            return dict(given)
        return {**given, "mixers": {letter: _keeping(attention, mixers[letter]) for letter in mixers}}

    def _change(self, values: dict[str, Any], letter: str, knobs: dict[str, Any]) -> None:
        values["mixers"] = {**values["mixers"], letter: values["mixers"][letter] | knobs}


def check_letters(used: set[str], declared: Mapping[str, Any]) -> None:
    """Raise an error that names a letter of the patterns that is not declared, or is declared and in none of them."""
    for letter in declared:
        if not (isinstance(letter, str) and len(letter) == 1 and "A" <= letter <= "Z"):
            raise told(
                (), letter, f": {shown(letter)} cannot be a letter of a pattern; it must be one of A to Z"
            )
    missing = sorted(used - declared.keys() - UNDECLARED.keys())
    if missing:
        raise told(
            (),
            missing,
            f": the pattern has {', '.join(missing)}, and mixers declares {', '.join(sorted(declared)) or 'none'}; "
            f"declare what it stands for, such as {missing[0]}: {{mixer: attention}}",
        )
    idle = sorted(declared.keys() - used)
    if idle:
        raise told(
            (),
            idle,
            f": declares {', '.join(idle)}, which no layer of the pattern has; use it or omit it",
        )


def _keeping(attention: MixerConfig, declared: Any) -> Any:
    """A declaration with the knobs that keep the most of an attention; one that `read_mixer` refuses as it is."""
    if not isinstance(declared, Mapping):
        return declared
    kind = registry.find(str(declared.get("mixer")))
    return ({} if kind is None else kind.keeping(attention)) | dict(declared)


def mixer_kind(letter: str, name: object) -> type[MixerConfig]:
    """The mixer of a declaration; raises an error at the declaration's place that names what there is."""
    try:
        return registry.get(str(name))
    except ValueError as error:
        raise told((letter, "mixer"), name, f"={error}") from None


def read_mixer(letter: str, declared: Any, settings: Mapping[str, Any]) -> MixerConfig:
    """One declaration as a configuration; errors carry its letter and its mixer's name."""
    if not isinstance(declared, Mapping) or "mixer" not in declared:
        raise told((letter,), declared, f"={shown(declared)}: must be a mixer such as {{mixer: attention}}")
    kind = mixer_kind(letter, declared["mixer"])
    unknown = sorted(declared.keys() - kind.knobs().keys() - {"mixer"}, key=str)
    if unknown:
        name, value = str(unknown[0]), declared[unknown[0]]
        raise told((letter, name), value, f"={shown(value)}: {unknown_knob(kind, name)}")
    try:
        return kind(**{**settings, **declared})
    except ValidationError as error:
        raise retold(error, kind, (letter,), f" (mixer {kind.name()!r})") from None


def unknown_knob(kind: type[MixerConfig], knob: str) -> str:
    """What to say of a knob that a mixer has not."""
    allowed = near_first(knob, kind.knobs())
    return f"mixer {kind.name()!r} has no such knob; it has {allowed or 'none'}"
