"""What a sweep has found so far, as plain records: read from MLflow (the ledger), used by front, pick and rerun."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a trial stands, or ended; the value of its run's tag `recallfront.status`."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    INVALID = "invalid"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    LOST = "lost"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_final(self) -> bool:
        """Whether a resumed sweep leaves such a trial alone: it would end in the same way again."""
        return self not in (Status.RUNNING, Status.LOST)

    @property
    def is_failure(self) -> bool:
        return self not in (Status.RUNNING, Status.FINISHED, Status.PRUNED)


@dataclass(frozen=True)
class Loss:
    """How a trial was lost, as far as its driver knows."""

    failure: str  # in one sentence
    status: Status = Status.LOST  # or out_of_memory: it would end so again
    figures: dict[str, float] = field(default_factory=dict)


TAG = "recallfront."  # prefix of every tag that we set on an MLflow run


@dataclass(frozen=True)
class TrialRecord:
    """One trial as its MLflow run tells it."""

    run_id: str
    trial_key: str
    status: Status
    config: dict[str, Any]  # the resolved TrialConfig as JSON
    metrics: dict[str, float]  # last value of each
    tags: dict[str, str] = field(default_factory=dict)  # without the prefix `recallfront.`
    failure: str | None = None
    start_time: float = 0.0  # seconds since the epoch
    end_time: float | None = None

    @property
    def version(self) -> tuple[str | None, str | None]:
        """Of code and data: trials of another version are not comparable."""
        return self.tags.get("code_version"), self.tags.get("data_digest")


@dataclass(frozen=True)
class SweepRecord:
    """One sweep as its MLflow parent run and that run's children tell it."""

    run_id: str
    sweep_key: str
    name: str  # the study: the experiment's name
    spec: dict[str, Any]  # the SweepSpec as JSON
    trials: tuple[TrialRecord, ...]
    tags: dict[str, str] = field(default_factory=dict)

    def current(self) -> "SweepRecord":
        """The same with the trials of the newest code and data alone: results belong to these, and do not mix."""
        newest = max(self.trials, key=lambda trial: trial.start_time, default=None)
        if newest is None:
            return self
        kept = tuple(trial for trial in self.trials if trial.version == newest.version)
        return replace(self, trials=kept)

    def with_status(self, *statuses: Status) -> tuple[TrialRecord, ...]:
        return tuple(trial for trial in self.trials if trial.status in statuses)
