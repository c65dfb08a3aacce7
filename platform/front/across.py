"""The configurations of a suite: what each reaches on one task beside what it reaches on the others."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from recallfront.platform.front.candidates import by_configuration, possible
from recallfront.platform.results.labels import architecture_of, varying_knobs
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status


def across_tasks(
    sweeps: Sequence[tuple[str, SweepRecord]], means: Iterable[str] = ()
) -> list[list[TrialRecord]]:
    """For each configuration that has finished every sweep, its seeds, their metrics as `TASK.METRIC`.

    `means` are tasks joined by +: of each the metrics that all its tasks have are added, as `TASK+TASK.METRIC`.

    A task of several settings has the mean over them. Configurations are the same if their architecture and all knobs
    that vary in one of the sweeps are equal: tasks may ask for other trainings and sizes. A seed counts if every sweep
    has it.
    """
    names = {name for _, record in sweeps for name in varying_knobs(record.trials)}
    found = [(task, _finished(record, names)) for task, record in sweeps]
    if not found:
        return []
    shared = set.intersection(*(set(own) for _, own in found))
    joined = [_joined(key, [(task, own[key]) for task, own in found]) for key in found[0][1] if key in shared]
    return list(by_configuration([_with_means(trial, means) for trial in joined]).values())


def with_unfinished(
    joined: Iterable[list[TrialRecord]], sweeps: Sequence[tuple[str, SweepRecord]]
) -> list[list[TrialRecord]]:
    """The configurations of `across_tasks`, and others, each with the trials of it that some sweep has not finished."""
    names = {name for _, record in sweeps for name in varying_knobs(record.trials)}
    found = {_identity(trials[0], names): [*trials] for trials in joined}
    for _, record in sweeps:
        for trial in possible(record):
            if trial.status.lacks_result:
                found.setdefault(_identity(trial, names), []).append(trial)
    return list(found.values())


def _finished(record: SweepRecord, names: Iterable[str]) -> dict[tuple[str, Any], TrialRecord]:
    """(what a configuration is known by, seed) -> its trial."""
    finished = record.with_status(Status.FINISHED)
    return {(_identity(trial, names), trial.config.get("seed")): trial for trial in finished}


def _identity(trial: TrialRecord, names: Iterable[str]) -> str:
    knobs = {name: trial.knobs[name] for name in sorted(names) if name in trial.knobs}
    return json.dumps([architecture_of(trial), knobs])


def _joined(key: tuple[str, Any], trials: Sequence[tuple[str, TrialRecord]]) -> TrialRecord:
    """One trial with the metrics of all; everything else is the first's."""
    first = trials[0][1]
    values: dict[str, list[float]] = {}
    for name, value in _named(trials):
        values.setdefault(name, []).append(value)
    settings = {task: sum(own == task for own, _ in trials) for task, _ in trials}
    metrics = {
        name: fmean(own) for name, own in values.items() if len(own) == settings[name.partition(".")[0]]
    }
    return replace(first, metrics=metrics)


def _with_means(trial: TrialRecord, means: Iterable[str]) -> TrialRecord:
    found = dict(trial.metrics)
    for mean in means:
        tasks = mean.split("+")
        for metric in (name.partition(".")[2] for name in trial.metrics if name.startswith(f"{tasks[0]}.")):
            names = [f"{task}.{metric}" for task in tasks]
            if all(name in trial.metrics for name in names):
                found[f"{mean}.{metric}"] = fmean(trial.metrics[name] for name in names)
    return replace(trial, metrics=found)


def _named(trials: Iterable[tuple[str, TrialRecord]]) -> Iterator[tuple[str, float]]:
    for task, trial in trials:
        for name, value in trial.metrics.items():
            yield f"{task}.{name}", value
