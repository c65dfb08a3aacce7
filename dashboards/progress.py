"""What a sweep that runs does now: what each of its workers is at, and what it has used of its budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from recallfront.dashboards.views import seconds_of
from recallfront.platform.metrics import duration, show
from recallfront.platform.results.labels import trial_label
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status

_NOT_COUNTED: Final = (Status.RUNNING, Status.INVALID, Status.DOMINATED)  # in a budget's trials


@dataclass(frozen=True)
class WorkerLine:
    """A trial that runs."""

    run_id: str
    key: str  # the first digits of its trial key
    label: str
    phase: str
    step: int  # that it has reported last
    steps: int  # that it is to have at most; 0 where that is not known
    recall: str  # on the validation split, as it was last evaluated; empty before
    node: str
    seconds: float  # that it has run, in all its attempts


@dataclass(frozen=True)
class BudgetLine:
    """What a sweep has used of one part of its budget."""

    name: str
    share: float  # of 1
    told: str


def workers_of(record: SweepRecord, varying: tuple[str, ...], now: float | None = None) -> list[WorkerLine]:
    """The trials that run, the longest first."""
    lines = [_worker(trial, varying, now) for trial in record.with_status(Status.RUNNING)]
    return sorted(lines, key=lambda line: -line.seconds)


def _worker(trial: TrialRecord, varying: tuple[str, ...], now: float | None) -> WorkerLine:
    asked = trial.config.get("training", {}).get("steps", 0)
    steps = asked if isinstance(asked, int) else 0
    recall = trial.metrics.get("validation_recall")
    return WorkerLine(
        run_id=trial.run_id,
        key=trial.trial_key[:12],
        label=trial_label(trial, varying),
        phase=_phase(trial, steps),
        step=min(trial.steps, steps),
        steps=steps,
        recall="" if recall is None else show("validation_recall", recall),
        node=trial.tags.get("node", ""),
        seconds=seconds_of(trial, now),
    )


def _phase(trial: TrialRecord, steps: int) -> str:
    """A trial measures before it trains, and tells its step with every evaluation."""
    if "steps" not in trial.tags:
        return "starting and measuring"
    return f"training, step {trial.steps:,} of {steps:,}" if trial.steps else "measured, training"


def budget_of(record: SweepRecord) -> list[BudgetLine]:
    """What was used of each limit of a sweep's budget, in the runs so far."""
    limits = record.spec.get("budget")
    if not isinstance(limits, dict):
        return []
    trials = sum(trial.status not in _NOT_COUNTED for trial in record.trials)
    used = {
        "hours": _told(record.tags, "elapsed_seconds") / 3600,
        "device_hours": _told(record.tags, "device_seconds") / 3600,
        "trials": trials,
        "training_steps": _told(record.tags, "training_steps"),
    }
    return [_line(name, part, limits[name]) for name, part in used.items() if _is_limit(limits.get(name))]


def _line(name: str, used: float, most: float) -> BudgetLine:
    hours = name.endswith("hours")
    told = [duration(3600 * value) if hours else f"{value:,.0f}" for value in (used, most)]
    return BudgetLine(
        name={"hours": "time"}.get(name, name.replace("_", " ")),
        share=min(used / most, 1.0),
        told=f"{told[0]} of {told[1]} used",
    )


def _is_limit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _told(tags: Mapping[str, str], name: str) -> int:
    text = tags.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 20 else 0
