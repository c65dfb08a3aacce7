"""The configurations of a sweep: its trials gathered over their seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, stdev
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from recallfront.platform.errors import UsageError
from recallfront.platform.metrics import (
    BUSY_CORES,
    IDLE_CORES,
    SPREAD,
    metric,
    most_rate_spread,
    rate_spread,
    rates_of,
    show,
    title_of,
)
from recallfront.platform.pareto import FloatArray
from recallfront.platform.results.labels import architecture_of, label
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.space import Scalar
from recallfront.sweeps.trial import MeasurementConfig

_TARGET_SPREAD: Final[float] = MeasurementConfig().target_spread


@dataclass(frozen=True)
class Candidate:
    """One configuration, its finished trials over the seeds taken together."""

    architecture: str
    knobs: dict[str, Scalar]  # what varies within the sweep
    metrics: dict[str, float] = field(repr=False)  # joined over seeds as `platform/metrics` says
    # in the metric's unit; a metric whose spread is not known is absent
    spreads: dict[str, float] = field(repr=False)
    run_ids: tuple[str, ...]  # one a seed, best validation recall first
    trial_keys: tuple[str, ...] = field(repr=False)  # in the same order
    on_front: bool = False
    # its place on or off the front holds when every value moves within its spread, and nothing is in doubt
    certain: bool = True
    doubts: tuple[str, ...] = ()  # why its values may be others than they seem
    contribution: float = 0.0  # the hypervolume that would be lost without it

    @property
    def n_seeds(self) -> int:
        return len(self.run_ids)

    @property
    def label(self) -> str:
        """Architecture and knobs in one line."""
        return label(self.architecture, self.knobs)

    def describe(self, metric: str) -> str:
        """A metric with its spread, as a person reads it; a dash if there is none."""
        if metric not in self.metrics:
            return "–"
        return show(metric, self.metrics[metric], self.spreads.get(metric))


def read_objectives(spec: Mapping[str, Any]) -> tuple[Objective, ...]:
    """The objectives of a sweep's specification (its JSON).

    Raises:
        UsageError: when it has none, as long as the specification of a new sweep has not reached the store, or they
            cannot be read.
    """
    if "objectives" not in spec:
        raise UsageError("the sweep has no specification in the store yet: wait until it has been written")
    try:
        return tuple(Objective.model_validate(objective) for objective in spec["objectives"])
    except (ValidationError, TypeError) as error:
        raise UsageError(
            "the objectives of the sweep cannot be read: the store's spec.json was damaged, or another version wrote "
            "it; run the sweep again to write it anew"
        ) from error


def oriented(metrics: Sequence[Mapping[str, float]], objectives: Sequence[Objective]) -> FloatArray:
    """Objectives read off metrics and turned to be maximised -> (len(metrics), len(objectives))."""
    signs = [(o.sign, o.reading) for o in objectives]
    rows = [[sign * own[name] for sign, name in signs] for own in metrics]
    return np.array(rows, dtype=np.float64).reshape(len(metrics), len(objectives))


def split_complete(
    trials: Iterable[TrialRecord], objectives: Sequence[Objective]
) -> tuple[list[TrialRecord], tuple[str, ...]]:
    """Trials with a finite value for every objective, and the run ids of the others."""
    complete, left_out, names = [], [], [o.reading for o in objectives]
    for trial in trials:
        if all(math.isfinite(trial.metrics.get(name, math.nan)) for name in names):
            complete.append(trial)
        else:
            left_out.append(trial.run_id)
    return complete, tuple(left_out)


def by_configuration(trials: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Trials that differ in their seed alone stand together; a seed counts once."""
    groups: dict[str, dict[Any, TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(trial.configuration, {})[trial.config.get("seed")] = trial
    return {key: list(seeds.values()) for key, seeds in groups.items()}


def possible(record: SweepRecord) -> list[TrialRecord]:
    """A sweep's trials without those of impossible configurations, and without failed attempts at finished ones."""
    done = {_place(trial) for trial in record.with_status(Status.FINISHED)}
    return [
        trial
        for trial in record.trials
        if trial.status is Status.FINISHED or (trial.status.lacks_result and _place(trial) not in done)
    ]


def _place(trial: TrialRecord) -> tuple[str, Any]:
    return trial.configuration, trial.config.get("seed")


def doubts_of(trials: Sequence[TrialRecord], objectives: Sequence[Objective], seeds: int) -> tuple[str, ...]:
    """Why the values of one configuration's trials may be others than they seem, each in words.

    Not all of its `seeds` have finished, and those that have may be the luckier ones; or a throughput was measured
    beside other work, or varied more than its protocol asks for.
    """
    told = [f"{len(trials)} of {seeds} seeds"] if len(trials) < seeds else []
    measured = rates_of(objectives)
    for name in measured:
        missed = [spread for t in trials if (spread := rate_spread(t.metrics, name)) > _most_spread(t)]
        if missed:
            told.append(f"{title_of(name)} varied by {100 * max(missed):.0f} %")
    busy = max((trial.metrics.get(BUSY_CORES, 0.0) for trial in trials), default=0.0)
    if measured and busy > IDLE_CORES:
        told.append(f"measured beside other work on {busy:.1f} cores")
    return tuple(told)


def _most_spread(trial: TrialRecord) -> float:
    target = trial.config.get("measurement", {}).get("target_spread", _TARGET_SPREAD)
    return most_rate_spread(float(target))


def gather(
    trials: Sequence[TrialRecord], knob_names: Iterable[str] = (), *, doubts: tuple[str, ...] = ()
) -> Candidate:
    """One configuration from its trials, which differ in their seed alone."""
    metrics, spreads = _of_one(trials[0]) if len(trials) == 1 else _of_seeds(trials)
    best_first = sorted(trials, key=lambda trial: -trial.metrics.get("validation_recall", 0.0))
    knobs = trials[0].knobs
    return Candidate(
        architecture=architecture_of(trials[0]),
        knobs={name: knobs[name] for name in knob_names if name in knobs},
        metrics=metrics,
        spreads=spreads,
        run_ids=tuple(trial.run_id for trial in best_first),
        trial_keys=tuple(trial.trial_key for trial in best_first),
        doubts=doubts,
    )


def _of_one(trial: TrialRecord) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of a configuration with one seed, and the spreads that it measured itself."""
    finite = {name: value for name, value in trial.metrics.items() if math.isfinite(value)}
    metrics = {name: value for name, value in finite.items() if not name.endswith(SPREAD)}
    spreads = {name: max(finite[own], 0.0) for name in metrics if (own := name + SPREAD) in finite}
    return metrics, spreads


def _of_seeds(trials: Sequence[TrialRecord]) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of a configuration, joined over its seeds, and their spreads."""
    names = [n for n in trials[0].metrics if all(math.isfinite(t.metrics.get(n, math.nan)) for t in trials)]
    metrics, spreads = {}, {}
    for name in names:
        if name.endswith(SPREAD):
            continue
        values = [trial.metrics[name] for trial in trials]
        metrics[name] = metric(name).join(values)
        if name + SPREAD in names:
            own = median(trial.metrics[name + SPREAD] for trial in trials)
            spreads[name] = max(own, (max(values) - min(values)) / 2)
        else:
            spreads[name] = stdev(values)
    return metrics, spreads
