"""What a sweep may take, over all of its runs, and what is left of it."""

import math
from collections.abc import Callable, Mapping
from statistics import fmean

from recallfront.platform.metrics import duration
from recallfront.platform.pareto import GrowingFront
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.results.tags import training_steps
from recallfront.sweeps.objectives import has_all
from recallfront.sweeps.spec import SweepSpec

NOT_RUN = (Status.INVALID, Status.DOMINATED)


class Budget:
    """Counts what a sweep has taken; trials of its earlier runs included."""

    def __init__(
        self,
        spec: SweepSpec,
        known: SweepRecord,
        seconds: Mapping[str, float] | None = None,
        expects: Callable[[int], float | None] = lambda trials: None,
    ) -> None:
        """
        Args:
            seconds: of every trial of earlier runs, those included that are to go on.
            expects: the hypervolume that so many further trials are expected to add; None if that is not known.
        """
        self._limits, self._objectives, self._seeds = spec.budget, spec.objectives, len(spec.first_seeds)
        self._looks_ahead, self._expects = spec.search.looks_ahead, expects
        self._expected: float | None = None  # as of the last trial that has ended
        self._devices = spec.resources.workers * (spec.resources.gpus or spec.resources.cpus)
        self.steps = training_steps(known)  # of training
        self._trials: set[str] = set()  # keys: one that is promoted ends twice
        self._seconds = dict(seconds or {})  # of each trial, in all its attempts
        self._device_seconds = self._devices * sum(self._seconds.values())
        # configuration -> values of its seeds, to be maximised
        self._finished: dict[str, list[list[float]]] = {}
        self._front = GrowingFront([o.sign * o.reference for o in spec.objectives])
        # after each trial that finished or was pruned, by its key: of one that is promoted its last end counts
        self._hypervolumes: dict[str, float] = {}
        for trial in sorted(known.trials, key=lambda trial: trial.end_time or 0.0):
            self._count(trial)
        self._look_ahead()

    def ended(self, trial: TrialRecord) -> None:
        """Count a trial that has ended, and of which the search has heard."""
        self._count(trial)
        self._look_ahead()

    def _look_ahead(self) -> None:
        if self._looks_ahead and self._limits.min_gain is not None:
            self._expected = self._expects(self._limits.gain_trials)

    def _count(self, trial: TrialRecord) -> None:
        if trial.status in NOT_RUN:
            return
        self._trials.add(trial.trial_key)
        before = self._seconds.get(trial.trial_key, 0.0)
        self._seconds[trial.trial_key] = trial.seconds
        self._device_seconds += self._devices * (trial.seconds - before)
        if self._limits.min_gain is None or trial.status not in (Status.FINISHED, Status.PRUNED):
            return
        if trial.status is Status.FINISHED and has_all(self._objectives, trial.metrics):
            values = [o.sign * trial.metrics[o.reading] for o in self._objectives]
            seeds = self._finished.setdefault(trial.configuration, [])
            seeds.append(values)
            if len(seeds) >= self._seeds:  # a lucky seed alone is no configuration
                self._front.put(trial.configuration, [fmean(own) for own in zip(*seeds, strict=True)])
        self._hypervolumes.pop(trial.trial_key, None)
        self._hypervolumes[trial.trial_key] = self._front.hypervolume

    def used_up(self, elapsed: float) -> str | None:
        """Which part of the budget is used up after so many seconds, in a sentence; None: there is some left."""
        limits = self._limits
        for name, most, used in self._parts(elapsed):
            if most is not None and used >= most:
                return f"budget.{name}: the runs of this sweep have used its {most:g}; raise it to continue"
        if limits.min_gain is not None and (gain := self._gain()) is not None and gain < limits.min_gain:
            trials = f"{limits.gain_trials} trials"
            told = (
                f"the next {trials} are expected to add" if self._looks_ahead else f"its last {trials} added"
            )
            return (
                f"budget.min_gain: {told} {gain:.2%} of the hypervolume, and {limits.min_gain:.2%} are wanted; "
                "lower it to continue"
            )
        return None

    def left(self, elapsed: float) -> str:
        """What is left after so many seconds, in words; empty if there is no limit."""
        limits = self._limits
        told = []
        for name, most, used in self._parts(elapsed):
            if most is not None:
                rest = max(0.0, most - used)
                hours = name.endswith("hours")
                shown = duration(rest * 3600) if hours else f"{rest:,.0f}"
                unit = {"hours": "", "device_hours": " of devices"}.get(name, f" {name.replace('_', ' ')}")
                told.append(shown + unit)
        if limits.min_gain is not None:
            gain = self._gain()
            which = f"{'expected gain of the next' if self._looks_ahead else 'gain of the last'} {limits.gain_trials}"
            added = "not known yet" if gain is None else f"{gain:.2%} of the hypervolume"
            told.append(f"{which} trials {added} (ends below {limits.min_gain:.2%})")
        return f"budget left: {', '.join(told)}" if told else ""

    def seconds_left(self, elapsed: float) -> float:
        """After how many more seconds a limit is reached if it is used on as it was; infinite if there is none."""
        rests = [most / used - 1 for _, most, used in self._parts(elapsed) if most is not None and used > 0]
        return elapsed * max(0.0, min(rests)) if rests else math.inf

    def _parts(self, elapsed: float) -> list[tuple[str, float | None, float]]:
        """Name, limit and use of what is counted."""
        limits = self._limits
        return [
            ("hours", limits.hours, elapsed / 3600),
            ("device_hours", limits.device_hours, self._device_seconds / 3600),
            ("trials", limits.trials, len(self._trials)),
            ("training_steps", limits.training_steps, self.steps),
        ]

    def _gain(self) -> float | None:
        """The share of the hypervolume that the last `gain_trials` added, or the next ones are expected to add; None as
        long as that is not known.
        """
        if self._looks_ahead:
            reached = self._front.hypervolume
            return None if self._expected is None or reached == 0 else self._expected / reached
        last, volumes = self._limits.gain_trials, [0.0, *self._hypervolumes.values()]
        if len(volumes) <= last or volumes[-1] == 0:
            return None
        return 1 - volumes[-1 - last] / volumes[-1]
