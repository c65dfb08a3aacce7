"""The mixers by their names: those of this folder, a file each, and those that were added from outside.

This module imports no torch; a mixer's file is imported when its name is first asked for.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from string import ascii_uppercase
from types import ModuleType

import recallfront.models.mixers
from recallfront.models.configs.base import Architecture
from recallfront.models.configs.compositions import COMPOSED, HYBRID
from recallfront.models.configs.explain import near_first
from recallfront.models.configs.mixer import MixerConfig

_ADDED: dict[str, type[MixerConfig]] = {}


def register(mixer: type[MixerConfig]) -> None:
    """Add a mixer from outside, so that a configuration may name it.

    Raises:
        ValueError: its name is another mixer's or not a word, its letter is not a capital letter, it lacks a method, or
            `architecture: NAME` would not be the mixer with its knobs.
    """
    name = mixer.name()
    if not name.isidentifier():
        raise ValueError(
            f"mixer {name!r}: its name must be a word, as `mixer: Literal['mine'] = 'mine'` gives it"
        )
    if not hasattr(mixer, "letter"):
        raise ValueError(f"mixer {name!r}: letter is missing; it must be a capital letter, A to Z")
    if mixer.letter not in [*ascii_uppercase]:
        raise ValueError(f"mixer {name!r}: letter is {mixer.letter!r}; it must be a capital letter, A to Z")
    if mixer.__abstractmethods__:
        raise ValueError(f"mixer {name!r}: lacks {', '.join(sorted(mixer.__abstractmethods__))}")
    if find(name) not in (None, mixer):
        raise ValueError(f"mixer {name!r}: there is another mixer of this name")
    if mixer.is_architecture:
        _check_architecture(mixer)
    _ADDED[name] = mixer


def _check_architecture(mixer: type[MixerConfig]) -> None:
    """Raise ValueError unless the mixer after short convolutions can be had by its name, with all of its knobs."""
    name = mixer.name()
    if name in {*COMPOSED, HYBRID}:
        raise ValueError(f"mixer {name!r}: there is an architecture of this name")
    if mixer.letter == "C":
        raise ValueError(f"mixer {name!r}: letter is 'C', which stands for the short convolution before it")
    taken = sorted(mixer.knobs().keys() & Architecture.model_fields.keys())
    if taken:
        raise ValueError(
            f"mixer {name!r}: knob {taken[0]!r} has the name of a setting of every model; give it another name"
        )


def unregister(name: str) -> None:
    """Take an added mixer out again."""
    _ADDED.pop(name, None)


def find(name: str) -> type[MixerConfig] | None:
    """The mixer of that name; None if there is none."""
    if name in _ADDED:
        return _ADDED[name]
    if name not in _files():
        return None
    module = import_module(f"recallfront.models.mixers.{name}")
    return next((mixer for mixer in mixers_of(module) if mixer.name() == name), None)


def get(name: str) -> type[MixerConfig]:
    """The mixer of that name.

    Raises:
        ValueError: there is none; the message begins with the name and lists those that there are.
    """
    found = find(name)
    if found is None:
        raise ValueError(f"{name!r}: there is no such mixer; there are {near_first(name, names())}")
    return found


def names() -> tuple[str, ...]:
    """Every mixer's name, sorted."""
    return tuple(sorted({name for name in _files() if find(name) is not None} | _ADDED.keys()))


def mixers_of(module: ModuleType) -> Iterator[type[MixerConfig]]:
    """The mixers that a module defines: its own classes that have a name."""
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, MixerConfig) and value.__module__ == module.__name__:
            if isinstance(value.model_fields["mixer"].default, str):
                yield value


@cache
def _files() -> set[str]:
    return {module.name for module in iter_modules(recallfront.models.mixers.__path__)}
