"""What a sweep that runs does now: what each of its workers is at."""

from dataclasses import dataclass

from recallfront.dashboards.views import seconds_of
from recallfront.platform.metrics import show
from recallfront.platform.results.labels import trial_label
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status


@dataclass(frozen=True)
class WorkerLine:
    """A trial that runs."""

    run_id: str
    key: str  # the first digits of its trial key
    label: str
    phase: str
    step: int  # that it has reported last
    steps: int  # that it is to have at most; 0 if that is not known
    recall: str  # on the validation split, as it was last evaluated; empty before
    node: str
    seconds: float  # that it has run, in all its attempts


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
