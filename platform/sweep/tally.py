"""What a sweep's trials come to, kept up to date trial by trial: asking costs the same however many there are."""

from collections.abc import Iterable

from recallfront.platform.front.history import Growth
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import COUNTED, Status
from recallfront.sweeps.spec import SweepSpec


class Tally:
    """The trials of a sweep that have ended, and what is told of all of them."""

    def __init__(self, spec: SweepSpec, trials: Iterable[TrialRecord] = ()) -> None:
        self.trials: dict[str, TrialRecord] = {}  # by key, in the order in which they ended
        self.counts = dict.fromkeys(COUNTED, 0)
        self.seconds = 0.0  # of all trials together
        self.best: TrialRecord | None = None  # the finished one of highest validation recall
        self.growth = Growth(spec.objectives)
        for trial in trials:
            self.put(trial)

    def put(self, trial: TrialRecord) -> None:
        """Take in a trial that has ended; an impossible one is recorded in each run of its sweep, and counts once."""
        before = self.trials.get(trial.trial_key)
        if before is not None:
            self._count(before, -1)
        self.trials[trial.trial_key] = trial
        self._count(trial, 1)
        if trial.status is Status.FINISHED:
            self.growth.add(trial)
            if "validation_recall" in trial.metrics and (
                self.best is None or _recall(trial) > _recall(self.best)
            ):
                self.best = trial

    def _count(self, trial: TrialRecord, number: int) -> None:
        self.counts[trial.status.counts_as] += number
        self.seconds += number * trial.seconds


def _recall(trial: TrialRecord) -> float:
    return trial.metrics["validation_recall"]
