"""Claims of papers as conditions over the finished trials of a sweep: parsed here, never run as code.

A claim has measures, one line each, and a condition on them:

    measures:
      based: best test_recall where architecture == based
      window: best test_recall where architecture == window and state_bytes <= based.state_bytes
    condition: based - window >= 0.05

`platform/front/claims.py` judges them.
"""

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.models.configs import architectures
from recallfront.sweeps.base import Frozen
from recallfront.sweeps.conditions import OPERATORS, Clause, Reference, parse_clauses

CHOOSING: Final = ("best", "highest", "lowest")  # statistics that are a metric of one configuration
STATISTICS: Final = (*CHOOSING, "mean", "slope", "correlation")
OF_A_FRONT: Final = "contribution"  # what `pick` knows and a claim does not
_OVER: Final = ("slope", "correlation")  # statistics of two figures
_MOST: Final = 500  # characters of a measure or a condition
_MOST_TERMS: Final = 60  # of a formula
_NAME: Final = r"[a-z][a-z0-9_]*"
_MEASURE = re.compile(
    r"(?P<statistic>\w+)\s+(?P<metric>[\w.+]+)(?:\s+over\s+(?P<over>log2\([\w.+]+\)|[\w.+]+))?(?:\s+where\s+(?P<where>.+))?"
)
_COMPARISON = re.compile(
    r"(?P<left>[^<>=!]+?)\s*(?P<op>>=|<=|>|<)\s*(?P<right>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
)
_TOKEN = re.compile(rf"\s*(?P<token>\d+\.?\d*(?:[eE][-+]?\d+)?|{_NAME}|[-+*/(),])")


@dataclass(frozen=True)
class Measure:
    """One number, read off the configurations that the clauses select."""

    statistic: str
    metric: str
    over: str | None  # the other figure of a slope or a correlation
    log: bool  # whether that is log2 of a figure
    clauses: tuple[Clause, ...]

    @property
    def refers_to(self) -> set[str]:
        """The measures whose configuration bounds its selection."""
        return {clause.bound.measure for clause in self.clauses if isinstance(clause.bound, Reference)}

    def impossible(self, words: Mapping[str, Collection[str]]) -> str:
        """Why it can never be what was meant, given all that settings that are words can be; empty if it can."""
        bounds = [clause.bound.metric for clause in self.clauses if isinstance(clause.bound, Reference)]
        figures = [name for name in (self.metric, self.over, *bounds) if name is not None]
        if OF_A_FRONT in (*figures, *(clause.name for clause in self.clauses)):
            return f"{OF_A_FRONT} is about the members of a front, and a claim has none"
        for name in figures:
            if name in words:
                return f"{name} is a word, and a measure and its bounds are numbers"
        for clause in self.clauses:
            known = words.get(clause.name, ())
            absent = [bound for bound in clause.bounds if isinstance(bound, str) and bound not in known]
            # `!=` is true of what the space lacks, and `in` may name more than there is
            may_be = clause.op == "!=" or len(absent) < len(clause.bounds)
            for bound in absent if known else ():
                if not may_be or (clause.name == "architecture" and bound not in architectures()):
                    return f"{clause.name} {bound} is not in the space, which has {', '.join(known)}"
        return ""

    @property
    def selection(self) -> str:
        """The clauses, as they were written."""
        return " and ".join(map(str, self.clauses))


@dataclass(frozen=True)
class Threshold:
    """A formula over the measures' names, and the threshold that it is compared with."""

    formula: str
    op: str
    threshold: float

    def value(self, measures: Mapping[str, Any]) -> Any:
        """The formula's value: a number, or an array where the measures are arrays; not finite if divided by 0."""
        with np.errstate(all="ignore"):
            return _Formula(self.formula, measures).value()

    def holds(self, value: float) -> bool:
        return bool(OPERATORS[self.op](value, self.threshold))


class Claim(Frozen):
    """A sentence of a paper as a condition over the finished trials."""

    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,47}$",
        description="What the claim is called: small letters, digits and -.",
    )
    source: str = Field(default="", description="Paper and figure that it is from.")
    sentence: str = Field(min_length=1, description="The claim in words.")
    measures: dict[str, str] = Field(
        min_length=1,
        description="Name -> `STATISTIC METRIC where CONDITION`: see "
        "[the measures of a claim](#the-measures-of-a-claim).",
    )
    condition: str = Field(
        description="`FORMULA >= NUMBER` (or <=, >, <): +, -, *, /, min(), max() and abs() of the measures' names."
    )
    seeds: int = Field(
        default=3,
        ge=1,
        description="Finished seeds that each configuration it rests on must have; with fewer it is undecided.",
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        self.comparison.value(dict.fromkeys(self.parsed, np.float64(1)))
        used = set(re.findall(_NAME, self.comparison.formula))
        used |= set().union(*(measure.refers_to for measure in self.parsed.values()))
        idle = [name for name in self.measures if name not in used]
        if idle:
            raise ValueError(f"measures.{idle[0]}: is used neither in the condition nor in another measure")
        return self

    @cached_property
    def parsed(self) -> dict[str, Measure]:
        """The measures by their names; those that another one refers to come before it."""
        found: dict[str, Measure] = {}
        choosing = [name for name, text in self.measures.items() if text.strip().startswith(CHOOSING)]
        for name, text in self.measures.items():
            if not re.fullmatch(_NAME, name) or name in _FUNCTIONS:
                raise ValueError(f"measures: {name!r} is not a name: write small letters, digits and _")
            try:
                found[name] = parse_measure(text, choosing)
            except ValueError as error:
                raise ValueError(f"measures.{name}: {error}") from None
        # a mapping keeps no order in a store
        needs = {name: measure.refers_to for name, measure in found.items()}
        try:
            return {name: found[name] for name in TopologicalSorter(needs).static_order()}
        except CycleError as error:
            raise ValueError(f"measures: {' and '.join(error.args[1][1:])} refer to each other") from None

    def check_words(self, words: Mapping[str, Collection[str]]) -> None:
        """Raise ValueError if a measure names what no claim can tell, or compares a word with what it cannot be.

        Args:
            words: settings of the sweep's space that are words, with all that each can be.
        """
        for name, measure in self.parsed.items():
            if wrong := measure.impossible(words):
                raise ValueError(f"claims.{self.id}.measures.{name}: {wrong}")

    @cached_property
    def comparison(self) -> Threshold:
        """The condition, read."""
        match = _COMPARISON.fullmatch(self.condition.strip()) if len(self.condition) <= _MOST else None
        if match is None:
            raise ValueError(
                f"condition={self.condition[:80]!r}: write `FORMULA >= NUMBER` (or <=, >, <), "
                "such as 'based - window >= 0.05'"
            )
        return Threshold(match["left"].strip(), match["op"], float(match["right"]))


def parse_measure(text: str, choosing: Collection[str] = ()) -> Measure:
    """Read one measure; `choosing` are the measures whose configuration its clauses may refer to.

    Raises:
        ValueError: says what cannot be read.
    """
    match = _MEASURE.fullmatch(text.strip()) if len(text) <= _MOST else None
    if match is None or match["statistic"] not in STATISTICS:
        raise ValueError(
            f"{text[:80]!r}: write `STATISTIC METRIC where CONDITION`, such as "
            f"'best recall where architecture == based'; a statistic is one of {', '.join(STATISTICS)}"
        )
    if (match["over"] is not None) != (match["statistic"] in _OVER):
        raise ValueError(
            f"{text[:80]!r}: slope and correlation, and no other statistic, are `over` a second figure"
        )
    over = match["over"]
    log = over is not None and over.startswith("log2(")
    return Measure(
        statistic=match["statistic"],
        metric=match["metric"],
        over=over[5:-1] if over is not None and log else over,
        log=log,
        clauses=tuple(parse_clauses(match["where"], choosing)) if match["where"] else (),
    )


def _over_all(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def applied(first: Any, *others: Any) -> Any:
        for other in others:
            first = function(first, other)
        return first

    return applied


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "min": _over_all(np.minimum),
    "max": _over_all(np.maximum),
    "abs": np.abs,
}
_INFIX: Final = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


class _Formula:
    """Reads and works out a formula by recursive descent: sums of products of numbers, names and functions."""

    def __init__(self, text: str, values: Mapping[str, Any]) -> None:
        self._text, self._values = text, values
        self._tokens, self._terms = self._split(), 0

    def value(self) -> Any:
        found = self._sum()
        if self._tokens:
            raise self._error(f"{self._tokens[0]!r} is not expected there")
        return found

    def _split(self) -> list[str]:
        tokens, at, text = [], 0, self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(f"{text[at:].strip()[:20]!r} cannot be read")
            tokens.append(match["token"])
            at = match.end()
        return tokens

    def _sum(self) -> Any:
        found = self._product()
        while self._tokens and self._tokens[0] in "+-":
            found = _INFIX[self._tokens.pop(0)](found, self._product())
        return found

    def _product(self) -> Any:
        found = self._one()
        while self._tokens and self._tokens[0] in "*/":
            found = _INFIX[self._tokens.pop(0)](found, self._one())
        return found

    def _one(self) -> Any:
        self._terms += 1
        if self._terms > _MOST_TERMS:
            raise self._error(f"has more than {_MOST_TERMS} terms")
        token = self._next("a measure, a number or (")
        if token == "-":
            return -self._one()
        if token == "(":
            return self._closed(self._sum())
        if token in _FUNCTIONS:
            return self._call(token)
        if token in self._values:
            return self._values[token]
        if token[0].isdigit():
            return np.float64(token)
        raise self._error(f"{token!r} is not a measure; measures are {', '.join(self._values)}")

    def _call(self, name: str) -> Any:
        if self._next("(") != "(":
            raise self._error(f"( must follow {name}")
        arguments = [self._sum()]
        while self._tokens and self._tokens[0] == ",":
            self._tokens.pop(0)
            arguments.append(self._sum())
        if name == "abs" and len(arguments) > 1:
            raise self._error("abs() takes one argument")
        return self._closed(_FUNCTIONS[name](*arguments))

    def _closed(self, found: Any) -> Any:
        if self._next(")") != ")":
            raise self._error(") is missing")
        return found

    def _next(self, wanted: str) -> str:
        if not self._tokens:
            raise self._error(f"it ends where {wanted} must follow")
        return self._tokens.pop(0)

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"condition {self._text[:80]!r}: {reason}")
