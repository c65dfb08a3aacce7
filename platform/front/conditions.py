"""Conditions on candidates, such as `recall >= 0.9 and architecture == based`: which candidates meet them."""

import difflib
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import replace
from typing import Final

from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.metrics import name_for_condition, named_in_condition, show
from recallfront.platform.results.records import SweepRecord
from recallfront.sweeps.conditions import Clause, parse_clauses
from recallfront.sweeps.space import Scalar

# what a condition may name besides metrics and knobs
_OWN: Final = ("architecture", "n_seeds", "contribution")
_NONE: Final = "none"
_OF_TRAINING: Final = "loss"  # that of the test split is `test_loss`


class Condition(Clause):
    """A clause about a candidate."""

    def holds(self, candidate: Candidate) -> bool:
        """Whether the candidate meets it; a knob that its architecture lacks is unequal to all but null."""
        return self.accepts(read(candidate, self.name))

    def shortfall(self, candidate: Candidate, scale: float) -> float:
        """How far the candidate is from meeting it, in units of `scale`; 1 if there is no distance."""
        if self.holds(candidate):
            return 0.0
        value = read(candidate, self.name)
        if not isinstance(value, int | float) or not isinstance(self.bound, int | float):
            return 1.0
        return abs(value - self.bound) / scale


def parse_conditions(
    where: str | Iterable[str], candidates: Sequence[Candidate], with_none: Collection[str]
) -> list[Condition]:
    """Read clauses `name op value`, joined by `and` within a string; all have to hold.

    Args:
        with_none: what `knobs_with_none` finds in the sweep.

    Raises:
        UsageError: names the clause that cannot be read, or the name that no candidate has.
    """
    conditions, known = [], known_names(candidates)
    for text in [where] if isinstance(where, str) else where:
        try:
            clauses = parse_clauses(text)
        except ValueError as error:
            raise UsageError(str(error)) from None
        for clause in clauses:
            _check(clause.name, known, f"condition {text!r}")
            meant = as_meant(clause, with_none)
            conditions.append(Condition(meant.name, meant.op, meant.bound))
    return conditions


def knobs_with_none(record: SweepRecord) -> frozenset[str]:
    """The knobs that may be the word `none`, as `positions`: in the sweep's space or, by default, in a trial."""
    space = [*record.spec.get("space", ()), record.spec.get("model", {})]
    found = set[str]()
    for settings in (*space, *(trial.knobs for trial in record.trials)):
        for name, value in settings.items():
            if value == _NONE or (isinstance(value, list) and _NONE in value):
                found.add(name)
    return frozenset(found)


def as_meant(clause: Clause, with_none: Collection[str]) -> Clause:
    """The clause with `none` as a word where the knob may be that: who lacks such a knob is not meant."""
    if None not in clause.bounds or clause.name not in with_none:
        return clause
    if not isinstance(clause.bound, tuple):
        return replace(clause, bound=_NONE)
    return replace(clause, bound=tuple(_NONE if bound is None else bound for bound in clause.bound))


def check_name(name: str, candidates: Sequence[Candidate], where: str) -> None:
    """Raise a UsageError that names the known ones when no candidate has such a metric or knob."""
    _check(name, known_names(candidates), where)


def _check(name: str, known: list[str], where: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"{where}: no candidate has {name!r}; {hint}known are {', '.join(known)}")


def validation_twin(name: str, metrics: Container[str]) -> str | None:
    """The validation split's figure beside a figure of the test split, both as a condition names them.

    None if the name is of no figure of the test split, as far as the `metrics` of the candidates tell.
    """
    own = named_in_condition(name).removeprefix("test_")
    twin = f"validation_{own}"
    is_of_test = name.startswith("test_") or (own != _OF_TRAINING and twin in metrics)
    return name_for_condition(twin) if is_of_test else None


def known_names(candidates: Iterable[Candidate]) -> list[str]:
    """Everything that a condition may name."""
    knobs, metrics = set[str](), set[str]()
    for candidate in candidates:
        knobs.update(candidate.knobs)
        metrics.update(candidate.metrics)
    # `recall_at_512` is no name of what only the test split has
    own = (name for name in metrics if named_in_condition(name) in metrics)
    return sorted({*_OWN, *knobs, *own, *map(name_for_condition, metrics)})


def read(candidate: Candidate, name: str) -> Scalar:
    """A candidate's value under a name that a condition may use; None if it has none."""
    if name in _OWN:
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
