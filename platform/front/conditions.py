"""Conditions on candidates, such as `recall >= 0.9 and architecture == based`: parsed, never run as code."""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.metrics import name_for_condition, named_in_condition, show
from recallfront.sweeps.space import Scalar

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
WORDS: dict[str, Scalar] = {"none": None, "null": None, "true": True, "false": False}
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>[<>=!]+)|(?P<quoted>'[^']*'|"[^"]*")|(?P<word>[^\s<>=!'"]+)|(?P<stray>\S))"""
)


@dataclass(frozen=True)
class Condition:
    """One clause: a metric or knob, an operator, and what it is compared with."""

    name: str
    op: str
    bound: Scalar

    def __str__(self) -> str:
        return f"{self.name} {self.op} {'none' if self.bound is None else self.bound}"

    def holds(self, candidate: Candidate) -> bool:
        """Whether the candidate meets it; a knob that its architecture lacks is unequal to everything."""
        value = read(candidate, self.name)
        if self.op not in ("==", "!=") and not (is_number(value) and is_number(self.bound)):
            return False
        if self.op in ("==", "!="):
            return _same(value, self.bound) == (self.op == "==")
        return bool(OPERATORS[self.op](value, self.bound))

    def shortfall(self, candidate: Candidate, scale: float) -> float:
        """How far the candidate is from meeting it, in units of `scale`; 1 where there is no distance."""
        if self.holds(candidate):
            return 0.0
        value = read(candidate, self.name)
        if not isinstance(value, int | float) or not isinstance(self.bound, int | float):
            return 1.0
        return abs(value - self.bound) / scale


def _same(value: Scalar, bound: Scalar) -> bool:
    """Equality of like with like: true is not 1, and `none` is null as well as the word that some knobs take."""
    if bound is None:
        return value is None or value == "none"
    if isinstance(value, bool) or isinstance(bound, bool):
        return value is bound
    if is_number(value) and isinstance(bound, str):  # quoted
        number = _value(bound)
        return is_number(number) and value == number
    return value == bound


def parse_conditions(where: str | Iterable[str], candidates: Sequence[Candidate]) -> list[Condition]:
    """Read clauses `name op value`, joined by `and` within a string; all have to hold.

    Raises:
        UsageError: names the clause that cannot be read, or the name that no candidate has.
    """
    conditions = []
    for text in [where] if isinstance(where, str) else where:
        for clause in _split(text):
            condition = _parse(clause, text)
            check_name(condition.name, candidates, f"condition {text!r}")
            conditions.append(condition)
    return conditions


def check_name(name: str, candidates: Sequence[Candidate], where: str) -> None:
    """Raise a UsageError that names the known ones when no candidate has such a metric or knob."""
    known = known_names(candidates)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"{where}: no candidate has {name!r}; {hint}known are {', '.join(known)}")


def known_names(candidates: Iterable[Candidate]) -> list[str]:
    """Everything that a condition may name."""
    names = {"architecture", "n_seeds", "contribution"}
    for candidate in candidates:
        names |= set(candidate.knobs) | set(candidate.metrics)
        names |= set(map(name_for_condition, candidate.metrics))
    return sorted(names)


def read(candidate: Candidate, name: str) -> Scalar:
    """A candidate's value under a name that a condition may use; None where it has none."""
    if name in ("architecture", "n_seeds", "contribution"):
        value: Scalar = getattr(candidate, name)
        return value
    metric = named_in_condition(name)
    return candidate.metrics.get(metric, candidate.knobs.get(name))


def read_shown(candidate: Candidate, name: str) -> str:
    """The same as a person reads it, with its spread."""
    metric = named_in_condition(name)
    if metric in candidate.metrics:
        return candidate.describe(metric)
    value = read(candidate, name)
    return show(name, value) if isinstance(value, float) else "none" if value is None else str(value)


def is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _split(text: str) -> list[list[re.Match[str]]]:
    clauses: list[list[re.Match[str]]] = [[]]
    for token in _TOKEN.finditer(text):
        if (token["word"] or "").lower() == "and":
            clauses.append([])
        else:
            clauses[-1].append(token)
    return clauses


def _parse(tokens: list[re.Match[str]], text: str) -> Condition:
    kinds = [token.lastgroup for token in tokens]
    if len(kinds) != 3 or kinds[0] != "word" or kinds[1] != "op" or kinds[2] not in ("word", "quoted"):
        raise UsageError(
            f"condition {text!r}: write `name op value`, such as 'recall >= 0.9', joined by `and`"
        )
    name, op, raw = tokens[0]["word"], tokens[1]["op"], tokens[2][0].strip()
    if op not in OPERATORS:
        raise UsageError(f"condition {text!r}: {op!r} is not one of {' '.join(OPERATORS)}")
    bound = raw[1:-1] if kinds[2] == "quoted" else _value(raw)
    if op not in ("==", "!=") and not is_number(bound):
        raise UsageError(f"condition {text!r}: {op} needs a number after it, got {raw!r}")
    return Condition(name, op, bound)


def _value(word: str) -> Scalar:
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    for number in (int, float):
        try:
            value = number(word)
        except ValueError:
            continue
        return value if math.isfinite(value) else word
    return word
