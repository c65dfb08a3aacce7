"""What a sweep may take, over all of its runs, and what is left of it."""

from collections.abc import Mapping
from statistics import fmean

from recallfront.platform.metrics import duration
from recallfront.platform.pareto import GrowingFront
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.results.tags import training_steps
from recallfront.sweeps.spec import SweepSpec

NOT_RUN = (Status.INVALID, Status.DOMINATED)


class Budget:
    """Counts what a sweep has taken; trials of its earlier runs included."""

    def __init__(
        self, spec: SweepSpec, known: SweepRecord, seconds: Mapping[str, float] | None = None
    ) -> None:
        """`seconds`: of every trial of earlier runs, those included that are to go on."""
        self._limits, self._objectives = spec.budget, spec.objectives
        self._devices = spec.resources.workers * (spec.resources.gpus or spec.resources.cpus)
        self.steps = training_steps(known)  # of training
        self._trials: set[str] = set()  # keys: one that is promoted ends twice
        self._seconds = dict(seconds or {})  # of each trial, in all its attempts
        self._device_seconds = self._devices * sum(self._seconds.values())
        # configuration -> values of its seeds, to be maximised
        self._finished: dict[str, list[list[float]]] = {}
        self._front = GrowingFront([o.sign * o.reference for o in spec.objectives])
        self._hypervolumes = [0.0]  # after each trial that finished or was pruned
        for trial in sorted(known.trials, key=lambda trial: trial.end_time or 0.0):
            self.ended(trial)

    def ended(self, trial: TrialRecord) -> None:
        """Count a trial that has ended."""
        if trial.status in NOT_RUN:
            return
        self._trials.add(trial.trial_key)
        before = self._seconds.get(trial.trial_key, 0.0)
        self._seconds[trial.trial_key] = trial.seconds
        self._device_seconds += self._devices * (trial.seconds - before)
        if self._limits.min_gain is None or trial.status not in (Status.FINISHED, Status.PRUNED):
            return
        if trial.status is Status.FINISHED:
            values = [o.sign * trial.metrics[o.reading] for o in self._objectives]
            seeds = self._finished.setdefault(trial.configuration, [])
            seeds.append(values)
            self._front.put(trial.configuration, [fmean(own) for own in zip(*seeds, strict=True)])
        self._hypervolumes.append(self._front.hypervolume)

    def used_up(self, elapsed: float) -> str | None:
        """Which part of the budget is used up after so many seconds, in a sentence; None: there is some left."""
        limits = self._limits
        for name, most, used in self._parts(elapsed):
            if most is not None and used >= most:
                return f"budget.{name}: the runs of this sweep have used its {most:g}; raise it to go on"
        if limits.min_gain is not None and (gain := self._gain()) is not None and gain < limits.min_gain:
            return (
                f"budget.min_gain: its last {limits.gain_trials} trials added {gain:.2%} of the hypervolume, and "
                f"{limits.min_gain:.2%} are wanted; lower it to go on"
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
            gain, last = self._gain(), limits.gain_trials
            added = "not known yet" if gain is None else f"{gain:.2%} of the hypervolume"
            told.append(f"gain of the last {last} trials {added} (ends below {limits.min_gain:.2%})")
        return f"budget left: {', '.join(told)}" if told else ""

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
        """The share of the hypervolume that the last `gain_trials` added; None before there are so many."""
        last = self._limits.gain_trials
        if len(self._hypervolumes) <= last or self._hypervolumes[-1] == 0:
            return None
        return 1 - self._hypervolumes[-1 - last] / self._hypervolumes[-1]
