"""What the knobs of an architecture do to an objective: partial means with their intervals, and importances.

Optuna is imported where it is first used, so that the command starts fast.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.pareto import FloatArray
from recallfront.platform.results.labels import show_knob
from recallfront.sweeps.conditions import is_number
from recallfront.sweeps.space import Scalar

MOST_LEVELS = 6  # a number with more values is taken in as many groups of about equal size
ENOUGH_FOR_FANOVA = 20  # configurations of one architecture
# of one architecture: of more, so many are drawn, as its time grows faster than they do
MOST_FOR_FANOVA = 200
_TREES = 64


@dataclass(frozen=True)
class Level:
    """The objective where a knob has one value, or one of a group of values."""

    name: str
    mean: float  # the others being as they are over all configurations
    error: float | None  # standard error; None where configurations are too few to tell
    free: int  # degrees of freedom of that error
    count: int  # configurations
    # of its least value, by which levels of one knob are sorted over architectures
    place: tuple[int, float, str]

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval that holds the mean 95 times of 100: Student's."""
        if self.error is None:
            return None
        from scipy.special import stdtrit

        half = float(stdtrit(self.free, 0.975)) * self.error
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Effect:
    """What one knob does to one metric, within one architecture."""

    architecture: str
    knob: str
    metric: str
    levels: tuple[Level, ...]  # in the order of the values
    # levels whose effect the configurations do not tell apart from that of other knobs
    untold: tuple[str, ...]
    importance: float | None  # the part of the variance that follows from the knob alone (fANOVA), if known


def effects(candidates: Sequence[Candidate], metric: str) -> list[Effect]:
    """The effect of every knob that varies, architecture by architecture.

    An additive model of all knobs of the architecture is fitted by least squares. A level's partial mean is what the
    model predicts on average over the configurations if all of them had that level (a least-squares mean), which
    unequal numbers of configurations do not bias as they do plain means. Errors are those of the fit. Where one knob
    changed only together with another, nothing tells which of them did it, and such levels have no mean.
    Importances are fANOVA's (Hutter, Hoos and Leyton-Brown, ICML 2014) as Optuna computes them, of at most
    `MOST_FOR_FANOVA` configurations.
    """
    found = []
    for architecture in dict.fromkeys(c.architecture for c in candidates):
        own = [c for c in candidates if c.architecture == architecture and metric in c.metrics]
        found_groups = {name: _groups(own, name, candidates) for name in _names(own)}
        grouped = {name: groups for name, (groups, _) in found_groups.items() if len(set(groups)) > 1}
        if not grouped:
            continue
        importances = _importances(own, list(grouped), metric)
        values = np.array([c.metrics[metric] for c in own])
        design, columns = _design(grouped)
        weights, covariance, free = _fit(design, values)
        projection = np.linalg.pinv(design) @ design
        for knob, groups in grouped.items():
            levels, untold = [], []
            for level in sorted(set(groups)):
                row = _averaged(design, columns, knob, level)
                name, place = _name_of(found_groups[knob][1][level])
                if not np.allclose(row @ projection, row):  # it is no combination of what was seen
                    untold.append(name)
                    continue
                error = None if covariance is None else math.sqrt(max(float(row @ covariance @ row), 0.0))
                levels.append(Level(name, float(row @ weights), error, free, groups.count(level), place))
            importance = None if untold else importances.get(knob)
            found.append(Effect(architecture, knob, metric, tuple(levels), tuple(untold), importance))
    return found


def _names(candidates: Sequence[Candidate]) -> list[str]:
    return list(dict.fromkeys(name for c in candidates for name in c.knobs))


def _groups(
    candidates: Sequence[Candidate], name: str, everyone: Sequence[Candidate]
) -> tuple[list[int], dict[int, list[Scalar]]]:
    """The number of the group that each candidate's value is in, in the order of values; the values of each group.

    Groups of numbers are cut alike for every architecture, so that `everyone` stands on one axis.
    """
    values = [candidate.knobs.get(name) for candidate in candidates]
    known = sorted({repr(value): value for value in values}.values(), key=_order)
    if len(known) > MOST_LEVELS and all(map(is_number, known)):
        common = np.unique([float(v) for c in everyone if is_number(v := c.knobs.get(name))])
        edges = np.unique(np.quantile(common, np.linspace(0, 1, MOST_LEVELS + 1)[1:-1]))
        places = np.searchsorted(edges, np.array(values, dtype=np.float64), side="right")
        members: dict[int, list[Scalar]] = {}
        for value, place in zip(common, np.searchsorted(edges, common, side="right"), strict=True):
            members.setdefault(int(place), []).append(float(value))
        return [int(place) for place in places], members
    number_of = {repr(value): number for number, value in enumerate(known)}
    return [number_of[repr(value)] for value in values], {n: [value] for n, value in enumerate(known)}


def _order(value: Scalar) -> tuple[int, float, str]:
    if is_number(value):
        assert isinstance(value, int | float)
        return 1, float(value), ""
    return (0 if value is None else 2), 0.0, str(value)


def _name_of(values: Sequence[Scalar]) -> tuple[str, tuple[int, float, str]]:
    """The name of a level with these values, in order, and the place of its least one."""
    least = _order(values[0])
    if len(values) == 1:
        return show_knob(values[0]), least
    return f"{show_knob(values[0], 3)} to {show_knob(values[-1], 3)}", least


def _design(grouped: dict[str, list[int]]) -> tuple[FloatArray, dict[tuple[str, int], int]]:
    """A column of ones, and one for each further level of each knob -> (configurations, columns), where each is."""
    count = len(next(iter(grouped.values())))
    columns: dict[tuple[str, int], int] = {}
    parts = [np.ones(count)]
    for knob, groups in grouped.items():
        for level in sorted(set(groups))[1:]:
            columns[knob, level] = len(parts)
            parts.append(np.array([float(group == level) for group in groups]))
    return np.stack(parts, axis=1), columns


def _averaged(design: FloatArray, columns: dict[tuple[str, int], int], knob: str, level: int) -> FloatArray:
    """The mean row of the design if every configuration had that level."""
    row: FloatArray = design.mean(axis=0)
    for (name, own), place in columns.items():
        if name == knob:
            row[place] = float(own == level)
    return row


def _fit(design: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray | None, int]:
    """Least squares -> weights, their covariance and its degrees of freedom.

    There is no covariance where no configurations are left to judge the residuals by.
    """
    inverse = np.linalg.pinv(design.T @ design)
    weights = inverse @ design.T @ values
    free = len(values) - int(np.linalg.matrix_rank(design))
    if free < 1:
        return weights, None, 0
    residuals = values - design @ weights
    return weights, inverse * float(residuals @ residuals) / free, free


def _importances(candidates: Sequence[Candidate], knobs: list[str], metric: str) -> dict[str, float]:
    """The parts of the variance by fANOVA; empty where configurations are too few, or all values are one."""
    if len(candidates) > MOST_FOR_FANOVA:
        drawn = np.random.default_rng(0).choice(len(candidates), MOST_FOR_FANOVA, replace=False)
        candidates = [candidates[number] for number in sorted(drawn)]
    if len(candidates) < ENOUGH_FOR_FANOVA or len({c.metrics[metric] for c in candidates}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    columns = {knob: _column([c.knobs.get(knob) for c in candidates]) for knob in knobs}
    distributions = {knob: distribution for knob, (distribution, _) in columns.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values of choices that Optuna could not store in a database
        study = optuna.create_study()
        for number, c in enumerate(candidates):
            params = {knob: values[number] for knob, (_, values) in columns.items()}
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=c.metrics[metric])
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
        try:
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
        except RuntimeError:  # no tree has drawn one of the few that differ: there is no variance to part
            return {}
    return {str(name): float(part) for name, part in found.items()}


def _column(values: list[Scalar]) -> tuple[Any, list[Any]]:
    """A knob's values as fANOVA is told them, and their distribution.

    It weighs a number by its distance from the next: the least of 16, 64, 256, 1024 would count next to nothing. By
    their mid-ranks all configurations count the same.
    """
    import optuna
    from scipy.stats import rankdata

    if all(map(is_number, values)):
        ranks = rankdata(np.array(values, dtype=np.float64)) - 0.5
        return optuna.distributions.FloatDistribution(0.0, float(len(values))), ranks.tolist()
    words = [str(value) for value in values]
    return optuna.distributions.CategoricalDistribution(sorted(set(words))), words
