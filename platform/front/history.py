"""How a sweep's hypervolume grew: by finished trials, by hours, by device-hours and by training steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recallfront.platform import pareto
from recallfront.platform.front.candidates import gather, oriented, read_objectives, split_complete
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.objectives import Objective


class Growth:
    """The hypervolume of finished trials, taken in one after the other: what each costs does not grow with them."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives
        self._seeds: dict[str, dict[Any, TrialRecord]] = {}  # by configuration
        self._front = pareto.GrowingFront([o.sign * o.reference for o in objectives])

    def add(self, trial: TrialRecord) -> bool:
        """Take in a finished trial; False for one without a value for every objective, which counts for nothing."""
        if not split_complete([trial], self._objectives)[0]:
            return False
        seeds = self._seeds.setdefault(trial.configuration, {})
        seeds[trial.config.get("seed")] = trial
        joined = gather(list(seeds.values())).metrics
        self._front.put(trial.configuration, oriented([joined], self._objectives)[0])
        return True

    @property
    def hypervolume(self) -> float:
        return self._front.hypervolume

    @property
    def changes(self) -> int:
        """How many times the front has become another one."""
        return self._front.changes


@dataclass(frozen=True)
class HistoryRow:
    """The hypervolume at the moment a trial finished."""

    run_id: str
    trials: int  # finished so far
    hours: float  # since the first trial started
    device_hours: float  # of every trial that had ended by then, whatever its end
    steps: int  # of training, of every trial that had ended by then
    hypervolume: float


def hypervolume_history(record: SweepRecord) -> list[HistoryRow]:
    """One row a finished trial, in the order they finished.

    Seeds of one configuration are taken together as on the front, so that the last row holds the front's own
    hypervolume; it may therefore fall when a further seed lowers a mean.
    """
    record = record.current()
    objectives = read_objectives(record.spec)
    ended = sorted((t for t in record.trials if t.end_time is not None), key=_end)
    start = min((trial.start_time for trial in ended), default=0.0)
    growth = Growth(objectives)
    rows: list[HistoryRow] = []
    device_hours, steps = 0.0, 0
    for trial in ended:
        device_hours += devices(trial) * trial.seconds / 3600
        steps += trial.steps
        if trial.status is Status.FINISHED and growth.add(trial):
            hours = (_end(trial) - start) / 3600
            told = hours, device_hours, steps, growth.hypervolume
            rows.append(HistoryRow(trial.run_id, len(rows) + 1, *told))
    return rows


def devices(trial: TrialRecord) -> float:
    """How many devices a trial held: GPUs where it asked for any, else CPU cores."""
    asked = trial.config.get("resources", {})
    return float(asked.get("workers", 1) * (asked.get("gpus", 0) or asked.get("cpus", 1)))


def _end(trial: TrialRecord) -> float:
    return trial.start_time if trial.end_time is None else trial.end_time
