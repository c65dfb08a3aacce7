"""How a sweep's hypervolume grew: by finished trials, by hours and by device-hours."""

from dataclasses import dataclass

from recallfront.platform import pareto
from recallfront.platform.front.candidates import (
    configuration_of,
    gather,
    oriented,
    read_objectives,
    split_complete,
)
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status


@dataclass(frozen=True)
class HistoryRow:
    """The hypervolume at the moment a trial finished."""

    run_id: str
    trials: int  # finished so far
    hours: float  # since the first trial started
    device_hours: float  # of every trial that had ended by then, whatever its end
    hypervolume: float


def hypervolume_history(record: SweepRecord) -> list[HistoryRow]:
    """One row a finished trial, in the order they finished.

    Seeds of one configuration are taken together as on the front, so that the last row holds the front's own
    hypervolume; it may therefore fall when a further seed lowers a mean.
    """
    record = record.current()
    objectives = read_objectives(record.spec)
    ended = sorted((t for t in record.trials if t.end_time is not None), key=_end)
    finished = {t.run_id for t in split_complete(record.with_status(Status.FINISHED), objectives)[0]}
    start = min((trial.start_time for trial in ended), default=0.0)
    reference = [o.sign * o.reference for o in objectives]
    seeds: dict[str, list[TrialRecord]] = {}
    points: dict[str, pareto.FloatArray] = {}
    rows: list[HistoryRow] = []
    device_hours = 0.0
    for trial in ended:
        device_hours += devices(trial) * (_end(trial) - trial.start_time) / 3600
        if trial.run_id not in finished:
            continue
        key = configuration_of(trial)
        seeds.setdefault(key, []).append(trial)
        points[key] = oriented([gather(seeds[key]).metrics], objectives)[0]
        volume = pareto.hypervolume(list(points.values()), reference)
        hours = (_end(trial) - start) / 3600
        rows.append(HistoryRow(trial.run_id, len(rows) + 1, hours, device_hours, volume))
    return rows


def devices(trial: TrialRecord) -> float:
    """How many devices a trial held: GPUs where it asked for any, else CPU cores."""
    asked = trial.config.get("resources", {})
    return float(asked.get("workers", 1) * (asked.get("gpus", 0) or asked.get("cpus", 1)))


def _end(trial: TrialRecord) -> float:
    return trial.start_time if trial.end_time is None else trial.end_time
