"""Whether any configuration of a block is possible, decided without trying every one."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from recallfront.sweeps.space import Knobs, Scalar

_MOST_TRIED = 4096
_MOST_ALTERNATIVES = 64  # values of one knob that are tried in place of a failing one


class _Found(Exception):
    """A configuration is possible."""


def impossible(axes: Mapping[str, Sequence[Scalar]], failure: Callable[[Knobs], str | None]) -> str | None:
    """Why no combination of the values is possible; None if one is, or if that is not decided.

    A knob matters to a failure when another value of it alone resolves it, or changes what is said. Only knobs that
    matter are combined, all others keep their first value: a space of any size whose failures have few causes is
    decided. One that is not decided within `_MOST_TRIED` combinations counts as possible, and its trials tell.

    Args:
        axes: knob -> its values.
        failure: a combination -> why it is impossible, or None.
    """
    first = {name: values[0] for name, values in axes.items()}
    try:
        return _search(axes, first, failure)
    except _Found:
        return None


def _search(
    axes: Mapping[str, Sequence[Scalar]], first: Knobs, failure: Callable[[Knobs], str | None]
) -> str | None:
    reason = _fail(first, failure)
    matter = _matter(axes, first, reason, failure)
    known, tried = {_kind(reason)}, 0
    grown = True
    while grown:
        grown = False
        for values in itertools.product(*(axes[name] for name in matter)):
            tried += 1
            if tried > _MOST_TRIED:
                return None
            combination = first | dict(zip(matter, values, strict=True))
            said = _fail(combination, failure)
            if _kind(said) in known:
                continue
            known.add(_kind(said))
            more = [name for name in _matter(axes, combination, said, failure) if name not in matter]
            if more:
                matter += more
                grown = True
                break
    return reason


def _matter(
    axes: Mapping[str, Sequence[Scalar]], at: Knobs, reason: str, failure: Callable[[Knobs], str | None]
) -> list[str]:
    return [
        name
        for name, values in axes.items()
        if any(_fail(at | {name: value}, failure) != reason for value in _some(values))
    ]


def _some(values: Sequence[Scalar]) -> Sequence[Scalar]:
    """All of few values, else so many evenly among them, the last included."""
    step = -(-len(values) // _MOST_ALTERNATIVES)
    return values if step == 1 else [*values[::step], values[-1]]


def _fail(combination: Knobs, failure: Callable[[Knobs], str | None]) -> str:
    said = failure(combination)
    if said is None:
        raise _Found
    return said


def _kind(reason: str) -> str:
    """A failure without its figures."""
    return re.sub(r"[\d.]+", "#", reason)
