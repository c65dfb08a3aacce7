"""The measures of claims, read off the finished configurations as measured and as they would be with other seeds.

Row 0 of every array is what was measured, and each row after it a draw of a bootstrap over seeds: each configuration's
seeds are drawn anew, with replacement, and every measure is read again, the choice of a best configuration included.
A figure that was measured once, such as a throughput, varies by its own spread.
"""

import difflib
import math
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recallfront.platform.front.candidates import Candidate, gather
from recallfront.platform.front.conditions import as_meant, known_names, read
from recallfront.platform.metrics import metric, name_for_condition, named_in_condition, spread_of
from recallfront.platform.results.labels import label
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.base import text_digest
from recallfront.sweeps.claims import CHOOSING, OF_A_FRONT, Measure
from recallfront.sweeps.conditions import OPERATORS, Clause, Reference, is_number
from recallfront.sweeps.objectives import Objective

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]

DRAWS: Final = 2000
# half that width of a normal distribution, in standard deviations
_P20_P80: Final = 0.8416
_MOST_CODED: Final = 15  # seeds whose draws are told apart by a number of 64 bits
_LEAST: Final = {"slope": 2, "correlation": 3}  # configurations


class Resampled:
    """A configuration with its metrics as measured (row 0) and as they would be in each draw of its finished seeds.

    One of which no trial has finished has its knobs alone.
    """

    def __init__(self, trials: Sequence[TrialRecord], varying: Sequence[str]) -> None:
        knobs = trials[0].knobs
        finished = [trial for trial in trials if trial.status is Status.FINISHED]
        self.unfinished = Counter(trial.status for trial in trials if trial.status.lacks_result)
        self._trials = sorted(finished, key=lambda trial: str(trial.config.get("seed")))
        self.candidate: Candidate = (
            gather(self._trials, knobs)
            if finished
            else replace(gather(trials, knobs), metrics={}, run_ids=())
        )
        self.configuration = trials[0].configuration
        self.name = label(self.candidate.architecture, {k: v for k, v in knobs.items() if k in varying})
        # a draw depends on the configuration alone: other trials that finish change nothing of it
        self._random = int(text_digest(self.configuration)[:16], 16)
        self._known: dict[str, Floats | None] = {}

    @cached_property
    def _seeds(self) -> NDArray[np.int64]:
        seeds = len(self._trials)
        drawn = np.random.default_rng(self._random).integers(0, seeds, (DRAWS, seeds))
        return np.vstack([np.arange(seeds), drawn])

    @cached_property
    def _of_kinds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _kinds(self._seeds)

    def without(self, name: str) -> int:
        """How many of its finished seeds lack a metric that others of them have, or have it as no finite number."""
        own = [trial.metrics.get(named_in_condition(name)) for trial in self._trials]
        lacking = sum(value is None or not math.isfinite(value) for value in own)
        return lacking if any(value is not None for value in own) else 0

    def metric(self, name: str) -> Floats | None:
        """(1 + DRAWS,) values of a metric as conditions call it; None if not all seeds have it."""
        if name not in self._known:
            self._known[name] = self._draw(named_in_condition(name))
        return self._known[name]

    def _draw(self, name: str) -> Floats | None:
        if name not in self.candidate.metrics:
            return None
        own = np.array([trial.metrics[name] for trial in self._trials])
        join = metric(name).join  # of whose kinds none minds the order
        first, kind = self._of_kinds
        values = np.array([join(row) for row in own[self._seeds[first]].tolist()])[kind]
        spreads = [spread_of(trial.metrics, name) for trial in self._trials]
        if any(spreads):
            noise = np.random.default_rng([self._random, int(text_digest(name)[:8], 16)]).standard_normal(
                DRAWS
            )
            values[1:] += noise * max(spreads) / _P20_P80
        return values

    def figure(self, name: str) -> Floats | None:
        """The same, of a knob as well where it is a number."""
        found = self.metric(name)
        if found is None and isinstance(value := read(self.candidate, name), int | float):
            return np.full(1 + DRAWS, float(value))
        return found

    def selected(self, clauses: Sequence[Clause], found: Mapping[str, "Reading"]) -> Truths:
        """(1 + DRAWS,): in which draws it meets every clause."""
        meets = [self._meets(clause, found) for clause in clauses]
        return reduce(np.logical_and, meets, np.ones(1 + DRAWS, dtype=np.bool_))

    def may_be_selected(
        self, clauses: Sequence[Clause], found: Mapping[str, "Reading"], measured: Collection[str]
    ) -> bool:
        """Whether it meets, in some draw, all clauses but those on metrics, of `measured`, that it lacks."""
        known = [c for c in clauses if c.name not in measured or self.metric(c.name) is not None]
        return bool(self.selected(known, found).any())

    def _meets(self, clause: Clause, found: Mapping[str, "Reading"]) -> Truths:
        bound: Any = clause.bound
        own = self.metric(clause.name)
        if isinstance(bound, Reference):
            bound = found[bound.measure].of_the_chosen(bound.metric)
            own = self.figure(clause.name) if own is None else own
        elif own is None or not is_number(bound):
            return np.full(1 + DRAWS, clause.accepts(read(self.candidate, clause.name)))
        if own is None:
            return np.zeros(1 + DRAWS, dtype=np.bool_)
        result: Truths = OPERATORS[clause.op](own, bound) & np.isfinite(np.asarray(bound, dtype=np.float64))
        return result


def _kinds(seeds: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws of the same seeds, in whatever order, are of one kind -> the first draw of each, the kind of each draw.

    Of three seeds there are 10 kinds, so that a figure is joined 10 times and not once a draw.
    """
    count = seeds.shape[1]
    if count > _MOST_CODED:
        each = np.arange(len(seeds))
        return each, each
    codes = np.sort(seeds, axis=1) @ count ** np.arange(count)
    _, first, kind = np.unique(codes, return_index=True, return_inverse=True)
    return first, kind


@dataclass(frozen=True)
class Reading:
    """A measure's value as measured and in each draw, and what it rests on."""

    values: Floats
    rests: tuple[Resampled, ...] = ()
    chosen: tuple[tuple[Resampled, ...], NDArray[np.int64]] | None = None  # of which, and which in each draw
    missing: str = ""  # why there is no value
    doubt: str = ""  # why it may have another one

    def of_the_chosen(self, name: str) -> Floats:
        """A metric of the configuration that was chosen, in each draw; NaN if it has none, or none was chosen."""
        assert self.chosen is not None
        choices, index = self.chosen
        columns = [one.figure(name) for one in choices]
        table = np.array([np.full(1 + DRAWS, np.nan) if c is None else c for c in columns])
        return np.where(np.isnan(self.values), np.nan, table[index, np.arange(1 + DRAWS)])


def read_measure(
    measure: Measure,
    configurations: Sequence[Resampled],
    objective: Objective | None,
    found: Mapping[str, Reading],
    with_none: Collection[str],
) -> Reading:
    """Read a measure off the configurations.

    Args:
        objective: what the best one is chosen by, if there is one.
        found: the measures before it.
        with_none: the knobs that may be the word `none`.
    """
    nothing = Reading(np.full(1 + DRAWS, np.nan))
    measure = replace(measure, clauses=tuple(as_meant(clause, with_none) for clause in measure.clauses))
    by, sign = _order(measure, objective)
    names = [name for name in (measure.metric, measure.over, by) if name]
    for name in names:
        if not any(one.figure(name) is not None for one in configurations):
            why = _not_finite(name, configurations) or _unknown(name, configurations)
            return replace(nothing, missing=why)
    known = _names(configurations)
    for clause in measure.clauses:
        if clause.name not in known:
            return replace(nothing, missing=_unknown(clause.name, configurations))
        bound = clause.bound.metric if isinstance(clause.bound, Reference) else None
        if bound is not None and not any(one.figure(bound) is not None for one in configurations):
            return replace(nothing, missing=_unknown(bound, configurations))
    having = [one for one in configurations if all(one.figure(name) is not None for name in names)]
    asked = _asked(measure, names, configurations, found)
    masks = {one: one.selected(measure.clauses, found) for one in having}
    used = tuple(one for one, mask in masks.items() if mask.any())
    least = _LEAST.get(measure.statistic, 1)
    at_first = tuple(one for one in used if masks[one][0])
    if len(at_first) < least:
        where = f" with {measure.selection}" if measure.clauses else ""
        counted = f"only {len(at_first)} finished configuration" if at_first else "no finished configuration"
        not_finite = [why for name in names if (why := _not_finite(name, asked))]
        return replace(nothing, missing=not_finite[0] if not_finite else f"{counted}{where}")
    if measure.statistic in CHOOSING:
        used = _least_state_first(used, measure.metric)  # of equals the first is chosen
    mask = np.array([masks[one] for one in used])
    values = _table(used, measure.metric)
    if measure.statistic in CHOOSING:
        merit = np.where(mask, sign * _table(used, by), -np.inf)
        index = OPERATORS[">="](merit, merit.max(axis=0)).argmax(axis=0)  # rounding makes no difference
        chosen = np.where(mask.any(axis=0), values[index, np.arange(1 + DRAWS)], np.nan)
        own = used[index[0]]
        return Reading(chosen, (own,), (used, index), doubt=_not_finished([own]))
    doubt = _not_finished(asked) or next(filter(None, (_not_finite(name, asked) for name in names)), "")
    if measure.over is None:
        with np.errstate(invalid="ignore"):
            means = np.where(mask, values, 0.0).sum(axis=0) / mask.sum(axis=0)
        return Reading(means, at_first, doubt=doubt)
    across = _table(used, measure.over)
    if why := _no_relation(measure, across[mask[:, 0], 0], values[mask[:, 0], 0]):
        return replace(nothing, missing=why)
    with np.errstate(all="ignore"):
        across = np.log2(across) if measure.log else across
        how = _slope if measure.statistic == "slope" else _rank_correlation
        return Reading(how(across, values, mask), at_first, doubt=doubt)


def _order(measure: Measure, objective: Objective | None) -> tuple[str, float]:
    """By what a configuration is chosen, and the sign that makes more of it better: `best` is by the sweep's first
    objective, on the validation split, and every other statistic by the metric itself.
    """
    if measure.statistic == "best":
        assert objective is not None, "the claims of a suite have no such measure"
        return objective.metric, objective.sign
    return measure.metric, -1.0 if measure.statistic == "lowest" else 1.0


def _least_state_first(configurations: Iterable[Resampled], name: str) -> tuple[Resampled, ...]:
    """An order that does not depend on when trials ran; in a suite the state is that on the task of the metric."""
    task, dot, _ = name.rpartition(".")
    state = f"{task}{dot}state_bytes"

    def place(one: Resampled) -> tuple[float, str]:
        return one.candidate.metrics.get(state, math.inf), one.configuration

    return tuple(sorted(configurations, key=place))


def _asked(
    measure: Measure, names: Sequence[str], configurations: Sequence[Resampled], found: Mapping[str, Reading]
) -> list[Resampled]:
    """The configurations that it may select; without those that cannot have its figures, such as another's knob."""
    metrics = {name for one in configurations for name in one.candidate.metrics}
    measured = metrics | set(map(name_for_condition, metrics))

    def may_have(one: Resampled, name: str) -> bool:
        return (
            one.figure(name) is not None
            or one.without(name) > 0
            or (name in measured and one.unfinished.total() > 0)
        )

    return [
        one
        for one in configurations
        if all(may_have(one, name) for name in names)
        and one.may_be_selected(measure.clauses, found, measured)
    ]


def _not_finished(asked: Sequence[Resampled]) -> str:
    """Which configurations have not finished: what has finished may be the better of them; empty if all have."""
    lacking = [one for one in asked if one.unfinished]
    if not lacking:
        return ""
    ends = reduce(operator.add, (one.unfinished for one in lacking))
    told = ", ".join(f"{number} {status.value.replace('_', ' ')}" for status, number in ends.items())
    have = "has" if len(lacking) == 1 else "have"
    return f"{len(lacking)} of {len(asked)} configurations that it may select {have} not finished ({told})"


def _not_finite(name: str, asked: Sequence[Resampled]) -> str:
    """Of which configuration a metric is not a finite number, the first of them; empty if there is none."""
    for one in asked:
        if lacking := one.without(name):
            return f"{name} of {one.name} has no finite value in {lacking} of {one.candidate.n_seeds} seeds"
    return ""


def _table(configurations: Sequence[Resampled], name: str) -> Floats:
    """(configurations, 1 + DRAWS); all of them have the figure."""
    return np.array([one.figure(name) for one in configurations])


def _slope(across: Floats, up: Floats, mask: Truths) -> Floats:
    """Of the least-squares line in each draw -> (draws,)."""
    weight = mask / mask.sum(axis=0)
    dx = across - (weight * across).sum(axis=0)
    dy = up - (weight * up).sum(axis=0)
    result: Floats = (weight * dx * dy).sum(axis=0) / (weight * dx * dx).sum(axis=0)
    return result


def _rank_correlation(across: Floats, up: Floats, mask: Truths) -> Floats:
    """Spearman's, in each draw -> (draws,); equal values share their mean rank."""
    found = np.full(mask.shape[1], np.nan)
    for draw, own in enumerate(mask.T):
        if own.sum() >= _LEAST["correlation"]:
            x, y = (_ranks(values[own, draw]) for values in (across, up))
            found[draw] = np.corrcoef(x, y)[0, 1]
    return found


def _no_relation(measure: Measure, across: Floats, up: Floats) -> str:
    """Why there is no slope or correlation of these values; empty if there is one."""
    constant = [measure.over] if (across == across[0]).all() else []
    constant += [measure.metric] if measure.statistic == "correlation" and (up == up[0]).all() else []
    if constant:
        return f"{constant[0]} is the same in all {len(across)} configurations"
    return (
        f"log2({measure.over}) is of a value that is not positive"
        if measure.log and across.min() <= 0
        else ""
    )


def _ranks(values: Floats) -> Floats:
    """The place of each value among all; equal values share their mean place."""
    ordered = np.sort(values)
    sides: list[NDArray[np.int64]] = [np.searchsorted(ordered, values, side) for side in ("left", "right")]
    result: Floats = (sides[0] + sides[1]) / 2
    return result


def _names(configurations: Sequence[Resampled]) -> list[str]:
    """All that a measure may name: what a condition may, but for what only a front tells."""
    return [name for name in known_names(one.candidate for one in configurations) if name != OF_A_FRONT]


def _unknown(name: str, configurations: Sequence[Resampled]) -> str:
    if not any(one.candidate.run_ids for one in configurations):
        return "no trial has finished"
    known = _names(configurations)
    if name in known:
        return f"{name} is not a number"
    close = difflib.get_close_matches(name, known, n=1)
    return f"no finished trial has {name!r}" + (f"; did you mean {close[0]}?" if close else "")
