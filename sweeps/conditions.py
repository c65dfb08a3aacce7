"""Conditions such as `recall >= 0.9 and architecture in (based, gla)`: parsed, never run as code."""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np

from recallfront.sweeps.space import Scalar

_RELATIVE: Final = 1e-9
_ABSOLUTE: Final = 1e-12


def _equal(value: Any, bound: Any) -> Any:
    """Whether numbers, or arrays of them, differ by no more than rounding: (0.95 + 0.95 + 0.95) / 3 is below 0.95."""
    if isinstance(value, np.ndarray) or isinstance(bound, np.ndarray):
        own, other = (np.asarray(one, dtype=np.float64) for one in (value, bound))
        return np.isclose(own, other, rtol=_RELATIVE, atol=_ABSOLUTE)
    if isinstance(value, int) and isinstance(bound, int):
        return value == bound
    return math.isclose(value, bound, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _unequal(value: Any, bound: Any) -> Any:
    return _equal(value, bound) ^ True  # of an array too


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": lambda value, bound: (value >= bound) | _equal(value, bound),
    "<=": lambda value, bound: (value <= bound) | _equal(value, bound),
    "==": _equal,
    "!=": _unequal,
    ">": lambda value, bound: (value > bound) & _unequal(value, bound),
    "<": lambda value, bound: (value < bound) & _unequal(value, bound),
}
IN: Final = "in"  # the operator that is a word
WORDS: dict[str, Scalar] = {"none": None, "null": None, "true": True, "false": False}
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>[<>=!]+)|(?P<quoted>'[^']*'|"[^"]*")|(?P<word>[^\s<>=!'"]+)|(?P<stray>\S))"""
)
_ONE = r"""['"](?P<quoted>[^'"]+)['"]|(?P<word>[^\s<>=!'"()]+)"""


@dataclass(frozen=True)
class Reference:
    """A bound that another measure of a claim gives: a metric of the configuration that it chooses."""

    measure: str
    metric: str

    def __str__(self) -> str:
        return f"{self.measure}.{self.metric}"


@dataclass(frozen=True)
class Clause:
    """A metric or knob, an operator, and what it is compared with."""

    name: str
    op: str
    bound: Scalar | Reference | tuple[Scalar, ...]  # several of `in`

    def __str__(self) -> str:
        values = ", ".join("none" if value is None else str(value) for value in self.bounds)
        return f"{self.name} {self.op} " + (f"({values})" if self.op == IN else values)

    @property
    def bounds(self) -> tuple[Scalar | Reference, ...]:
        """What it is compared with: one value, or those of `in`."""
        return self.bound if isinstance(self.bound, tuple) else (self.bound,)

    def accepts(self, value: Scalar) -> bool:
        """Whether a value meets it; None, of a knob that an architecture lacks, is unequal to all but null."""
        if isinstance(self.bound, Reference):
            raise TypeError(f"{self}: a measure's metric is not a value")
        if isinstance(self.bound, tuple):
            return any(_same(value, bound) for bound in self.bound)
        if self.op in ("==", "!="):
            return _same(value, self.bound) == (self.op == "==")
        if not (is_number(value) and is_number(self.bound)):
            return False
        return bool(OPERATORS[self.op](value, self.bound))


def parse_clauses(text: str, measures: Collection[str] = ()) -> list[Clause]:
    """Read clauses `name op value` and `name in (value, value)`, joined by `and`.

    Args:
        measures: names that a bound may refer to, as `state_bytes <= based.state_bytes` does to `based`.

    Raises:
        ValueError: names the clause that cannot be read.
    """
    return [_parse(tokens, text, measures) for tokens in _split(text)]


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(value: Scalar, bound: Scalar) -> bool:
    """Equality of like with like: true is not 1, and `none` is null as well as the word that some knobs take."""
    if bound is None:
        return value is None or value == "none"
    if isinstance(value, bool) or isinstance(bound, bool):
        return value is bound
    if is_number(value) and isinstance(bound, str):  # quoted
        number = _value(bound)
        return is_number(number) and _same(value, number)
    if is_number(value) and is_number(bound):
        return bool(_equal(value, bound))
    return value == bound


def _split(text: str) -> list[list[re.Match[str]]]:
    clauses: list[list[re.Match[str]]] = [[]]
    for token in _TOKEN.finditer(text):
        if (token["word"] or "").lower() == "and":
            clauses.append([])
        else:
            clauses[-1].append(token)
    return clauses


def _parse(tokens: list[re.Match[str]], text: str, measures: Collection[str]) -> Clause:
    kinds = [token.lastgroup for token in tokens]
    if kinds[:2] == ["word", "word"] and tokens[1]["word"].lower() == IN:
        return Clause(tokens[0]["word"], IN, _several(text[tokens[1].end() : tokens[-1].end()], text))
    if len(kinds) != 3 or kinds[0] != "word" or kinds[1] != "op" or kinds[2] not in ("word", "quoted"):
        raise ValueError(
            f"condition {text!r}: write `name op value`, such as 'recall >= 0.9', or `name in (value, value)`, joined "
            "by `and`"
        )
    name, op, raw = tokens[0]["word"], tokens[1]["op"], tokens[2][0].strip()
    if op not in OPERATORS:
        raise ValueError(f"condition {text!r}: {op!r} is not one of {' '.join(OPERATORS)} {IN}")
    measure, dot, metric = raw.partition(".")
    if dot and measure in measures and kinds[2] == "word":
        return Clause(name, op, Reference(measure, metric))
    bound = raw[1:-1] if kinds[2] == "quoted" else _value(raw)
    if op not in ("==", "!=") and not is_number(bound):
        raise ValueError(f"condition {text!r}: {op} needs a number after it, got {raw!r}")
    return Clause(name, op, bound)


def _several(listed: str, text: str) -> tuple[Scalar, ...]:
    """The values of `(value, value)`, each a word or quoted."""
    inner = re.fullmatch(r"\s*\((.+)\)\s*", listed)
    found = [re.fullmatch(_ONE, own.strip()) for own in (inner[1] if inner else "").split(",")]
    values = [match["quoted"] or _value(match["word"]) for match in found if match]
    if len(values) < len(found):
        raise ValueError(f"condition {text!r}: in needs values in brackets after it, such as (based, gla)")
    return tuple(values)


def _value(word: str) -> Scalar:
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    for number in (int, float):
        try:
            value = number(word)
            return value if math.isfinite(value) else word
        except (ValueError, OverflowError):  # a whole number may be beyond all that a figure can be
            continue
    return word
