"""The mixers of a hybrid in a sweep: `mixers: {D: {mixer: gla}}` and `D.mixer: gla` are the same, and all are knobs."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from recallfront.models.configs.explain import explain, near_first, shown
from recallfront.models.configs.hybrid import UNDECLARED, HybridConfig, check_letters, unknown_knob
from recallfront.models.configs.mixer import MixerConfig
from recallfront.models.mixers import registry

_LETTER = re.compile("[A-Z]")
_KNOB = re.compile(r"([A-Z])\.(\w+)")  # a letter of the pattern and a knob of its mixer
_NESTED = "mixers"


def flat(block: Any) -> Any:
    """A block as it is written with what stands under `mixers` as knobs of their own, `D.mixer` and `D.state_dim`.

    Raises:
        ValueError: `mixers` is not a mapping of letters to mixers, or a knob is given in both ways.
    """
    if not isinstance(block, Mapping) or _NESTED not in block:
        return block
    found = {key: value for key, value in block.items() if key != _NESTED}
    mixers = block[_NESTED]
    if not isinstance(mixers, Mapping):
        raise ValueError(f"mixers={shown(mixers)}: must be a mapping of letters to mixers")
    for letter, declared in mixers.items():
        if not isinstance(declared, Mapping) or "mixer" not in declared:
            raise ValueError(
                f"mixers.{letter}={shown(declared)}: must be a mixer such as {{mixer: attention}}"
            )
        for knob, value in declared.items():
            key = f"{letter}.{knob}"
            if key in found:
                raise ValueError(f"{key}: is given twice, here and under mixers")
            if not _LETTER.fullmatch(str(letter)):
                raise ValueError(
                    f"mixers.{key}: {shown(letter)} is not a letter of a pattern; it must be one of A to Z"
                )
            if not _KNOB.fullmatch(key):
                for kind in mixer_kinds(letter, {f"{letter}.mixer": declared["mixer"]}, _NESTED):
                    check_knob(kind, str(knob), value, f"mixers.{key}")
            found[key] = value
    return found


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A hybrid's settings with the knobs of the mixers that its pattern uses under `mixers`."""
    plain = {key: value for key, value in settings.items() if not _KNOB.fullmatch(key)}
    mixers: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if (match := _KNOB.fullmatch(key)) and match[1] in str(settings.get("pattern", "")):
            mixers.setdefault(match[1], dict(UNDECLARED.get(match[1], {})))[match[2]] = value
    return plain | {_NESTED: mixers}


def mixer_knob(key: str) -> tuple[str, str] | None:
    """The letter and the knob of a key such as `D.state_dim`; None if it is of another form."""
    match = _KNOB.fullmatch(key)
    return (match[1], match[2]) if match else None


def mixer_kinds(letter: str, block: Mapping[str, Any], where: str) -> list[type[MixerConfig]]:
    """The mixers that a letter may stand for in a block.

    Raises:
        ValueError: the letter is not declared, or is as a mixer that there is not.
    """
    declared = {f"{known}.mixer": own["mixer"] for known, own in UNDECLARED.items()} | dict(block)
    if f"{letter}.mixer" not in declared:
        raise ValueError(
            f"{where}: mixers does not declare {letter}; declare what it stands for, such as "
            f"{letter}: {{mixer: attention}}"
        )
    given = declared[f"{letter}.mixer"]
    kinds = []
    for name in given if isinstance(given, list | tuple) else [given]:
        kind = registry.find(name) if isinstance(name, str) else None
        if kind is None:
            allowed = near_first(name, registry.names())
            raise ValueError(
                f"{where}.{letter}.mixer={shown(name)}: there is no such mixer; there are {allowed}"
            )
        kinds.append(kind)
    return kinds


def check_knob(kind: type[MixerConfig], knob: str, value: object, where: str) -> None:
    """Raise ValueError if the mixer has no such knob."""
    if knob not in kind.knobs():
        raise ValueError(f"{where}={shown(value)}: {unknown_knob(kind, knob)}")


def check_patterns(block: Iterable[str], patterns: Iterable[object], where: str) -> None:
    """Raise ValueError if a pattern of a block has a letter that is not declared, or none has a declared one."""
    declared = {found[0]: None for key in block if (found := mixer_knob(key))}
    used = set().union(*map(str, patterns))
    try:
        check_letters(used, declared)
    except ValidationError as error:
        raise ValueError(f"{where}.mixers: {explain(error, HybridConfig)}") from None
