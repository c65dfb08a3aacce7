"""Conducts a sweep: which trial is next, what each report means, what has ended. It knows nothing of Tune."""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from recallfront.platform.front.history import Growth
from recallfront.platform.metrics import MEASURED_AGAIN
from recallfront.platform.results.cancellation import CancelRequest
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Lost, Status
from recallfront.platform.results.tags import elapsed_seconds
from recallfront.platform.search.planner import Impossible, Outcome, PlannedTrial, Planner
from recallfront.platform.search.rules import SECONDS_PER_STEP, Rules, Ruling
from recallfront.platform.sweep.budget import NOT_RUN, Budget
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.sweep.tally import Tally
from recallfront.platform.tracking.digests import FIGURES, figures_tag, with_figures
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.trial import TrialConfig


@dataclass
class _Live:
    """A trial that runs."""

    plan: PlannedTrial
    started: float = field(default_factory=time.time)
    since: float | None = None  # when its attempt began to compute; None while it waits for a place
    last: Report = field(default_factory=lambda: Report(step=0))
    verdict: Ruling | None = None  # by which it ends before its last step
    attempts: int = 1
    moves: int = 0
    node: str = ""  # the machine that it runs on


class Conductor:
    """Holds a sweep's state in the driver; Tune's hooks call it from one thread, displays read it from others."""

    def __init__(
        self,
        spec: SweepSpec,
        planner: Planner,
        recorder: Recorder,
        known: SweepRecord,
        rules: Rules,
        before: Iterable[TrialRecord] = (),
    ) -> None:
        """`known`: trials that have ended; `before`: all trials of earlier runs of the sweep."""
        before = tuple(before)
        self.spec, self.recorder = spec, recorder
        self._planner, self._rules, self._known = planner, rules, known
        self._trained = {trial.trial_key: trial.steps for trial in before}
        self._seconds = {trial.trial_key: trial.seconds for trial in before if trial.status not in NOT_RUN}
        self._tally = Tally(spec, known.trials)
        self._unnamed: set[str] = set()  # keys of trials whose run the server may not have made yet
        self._lately = (0, 0.0)  # trials that this run of the sweep has run, and their seconds
        self._live: dict[str, _Live] = {}
        self._lock = threading.Lock()
        self._peeked: PlannedTrial | None = None
        self._heard = 0  # reports and ends of trials: before the next one there is nothing new to ask for
        self._found_nothing_at = -1
        self._proposed = 0  # as last recorded
        self.cancellation: CancelRequest | None = None  # once somebody has asked for the sweep's end
        self.waiting = ""  # how many trials wait, and for what
        self.ran = 0  # trials that this run of the sweep ended
        self.changed = threading.Event()  # a trial finished: what shows the front reads it again
        self.started = time.time()
        self._before = elapsed_seconds(known)
        self._budget = Budget(spec, known, self._seconds, planner.expects)

    def has_trial(self) -> bool:
        """Whether anything is left to run; nothing is recorded yet."""
        return self.out_of_budget() is None and self._planner.has_plan()

    def peek(self) -> PlannedTrial | None:
        """The trial that `next` will give, without starting it: None if nothing is left to run."""
        if self._found_nothing_at == self._heard:
            return None
        while self._peeked is None and self.out_of_budget() is None:
            self._promote()
            planned = self._planner.next()
            if planned is None:
                # a look at all that were ended, which is not made again before something is heard
                self._promote(thorough=True)
                planned = self._planner.next()
            if planned is None:
                self._found_nothing_at = self._heard
                self._tell_proposed()
                return None
            if isinstance(planned, PlannedTrial):
                self._peeked = planned
            else:
                self._record_impossible(planned)
        return self._peeked

    def next(self, trial_id: str) -> PlannedTrial | None:
        """The next trial to run, known from now on by `trial_id`; None if there is no further one."""
        plan = self.peek()
        if plan is None or self.out_of_budget() is not None or self.cancellation is not None:
            return None
        self._peeked = None
        self.recorder.open_trial(plan)
        with self._lock:
            self._live[trial_id] = _Live(plan)
        self._tell_proposed()
        return plan

    def goes_on(self, trial_id: str, report: Report) -> bool:
        """Whether a trial that has made this report is to be trained further, or pruned."""
        live = self._live[trial_id]
        if report.status is not Status.RUNNING:
            return True
        self._heard += 1
        seconds = report.seconds.get("train", 0.0)
        pace = {SECONDS_PER_STEP: seconds / report.step} if report.step and seconds else {}
        live.verdict = self._rules.judge(live.plan, report.step, report.figures | pace)
        return live.verdict is None

    def report(self, trial_id: str, report: Report) -> None:
        """Take a trial's report; the last one is recorded when the trial has ended."""
        live = self._live[trial_id]
        live.last = report
        if live.since is None:  # before the first report it has measured, unless it only reads how it ended
            is_new = report.status is Status.RUNNING
            live.since = time.time() - (report.seconds.get("measure", 0.0) if is_new else 0.0)
        self._count_steps(live.plan.config.key, report.step)
        if report.status is Status.RUNNING:
            self.recorder.report(live.plan.config.key, report)

    def config(self, trial_id: str) -> TrialConfig:
        """What a trial that runs was made of."""
        return self._live[trial_id].plan.config

    def placed(self, trial_id: str, node: str) -> None:
        """A trial has reported from a machine of this name."""
        live = self._live[trial_id]
        if live.node != node:
            live.node = node
            self.recorder.placed(live.plan.config.key, node)

    def waits(self, told: str) -> None:
        """What trials wait for is now this; empty if none waits."""
        if told != self.waiting:
            self.waiting = told
            self.recorder.waits(told)

    def retried(self, trial_id: str) -> None:
        """A trial was lost and begins again, from its last checkpoint."""
        live = self._live[trial_id]
        self._rests(live)
        live.attempts += 1
        self.recorder.retried(live.plan.config.key, live.attempts)

    def moved(self, trial_id: str) -> None:
        """A trial was told to leave, and goes on in another process."""
        live = self._live[trial_id]
        self._rests(live)
        live.moves += 1
        self.recorder.moved(live.plan.config.key, live.moves)

    def ended(self, trial_id: str, *, lost: Lost | None = None) -> Status:
        """A trial is over: by its own last report, by pruning, or because it was lost for good (`lost` says how)."""
        live = self._live[trial_id]
        report, key = live.last, live.plan.config.key
        if lost is not None:
            figures = report.figures | lost.figures
            report = replace(report, rows=[], figures=figures, status=lost.status, failure=lost.failure)
        elif live.verdict is not None:
            verdict = live.verdict
            report = replace(report, rows=[], status=verdict.status, failure=verdict.reason)
        took = self._has_run(live)
        self.recorder.report(key, report)
        outcome = Outcome(report.status, report.figures)
        self._heard += 1
        self._rules.ended(live.plan, outcome)
        self._planner.ended(live.plan, outcome)
        record = TrialRecord(
            run_id=self.recorder.run_id(key),
            trial_key=key,
            status=report.status,
            config=live.plan.config.model_dump(mode="json"),
            metrics=dict(report.figures),
            tags=self.recorder.version | {"run_seconds": f"{took:.1f}", FIGURES: figures_tag(report.figures)},
            failure=report.failure,
            start_time=live.started,
            end_time=time.time(),
        )
        self._budget.ended(record)
        with self._lock:
            self._put(record)
            del self._live[trial_id]
            self.ran += 1
            number, seconds = self._lately
            self._lately = number + 1, seconds + time.time() - live.started
        self.changed.set()
        return report.status

    def _has_run(self, live: _Live) -> float:
        """Record how long a trial that ends now has run, in all its attempts."""
        key = live.plan.config.key
        self._rests(live)
        self.recorder.ran(key, self._seconds[key])
        return self._seconds[key]

    def _rests(self, live: _Live) -> None:
        """An attempt of a trial is over: until the next one computes, it takes nobody's time."""
        with self._lock:
            self._seconds[live.plan.config.key], live.since = self._so_far(live), None

    def _so_far(self, live: _Live) -> float:
        before = self._seconds.get(live.plan.config.key, 0.0)
        return before if live.since is None else before + time.time() - live.since

    def _running_seconds(self) -> dict[str, float]:
        """How long each trial that runs has run, in all its attempts."""
        with self._lock:
            return {live.plan.config.key: self._so_far(live) for live in self._live.values()}

    def measured_again(
        self, trial: TrialRecord, numbers: Mapping[str, float], details: Mapping[str, Any]
    ) -> bool:
        """Take the metrics of a second measurement for a finished trial; whether they are others than it had."""
        if numbers.items() <= trial.metrics.items():
            return False
        times = int(trial.metrics.get(MEASURED_AGAIN, 0)) + 1
        numbers = {**numbers, MEASURED_AGAIN: float(times)}
        trial = with_figures(trial, numbers)
        with self._lock:
            self._put(trial)
        self.recorder.measured_again(trial, numbers, details, step=self.spec.training.steps + times)
        self.changed.set()
        return True

    def cancel(self, request: CancelRequest) -> None:
        """Somebody asks for the sweep's end: no further trial begins."""
        self.cancellation = request

    def interrupted(self) -> str:
        """The driver is asked to stop: running trials are lost for now, the sweep's next run resumes them -> why."""
        reason = "interrupted" if self.cancellation is None else str(self.cancellation)
        with self._lock:
            live, left, self._live = list(self._live.values()), self._running(), {}
            for record in left:
                self._put(replace(record, status=Status.LOST))
        for trial in live:
            self._has_run(trial)
            lost = replace(trial.last, rows=[], status=Status.LOST, failure=f"the sweep was {reason}")
            self.recorder.report(trial.plan.config.key, lost)
        self.tell_time()
        return reason

    def record(self) -> SweepRecord:
        """The sweep as it stands, trials that run included."""
        with self._lock:
            self._name_runs()
            trials = self._tally.trials | {trial.trial_key: trial for trial in self._running()}
        return replace(self._known, trials=tuple(trials.values()))

    def running(self) -> list[TrialRecord]:
        """The trials that run."""
        with self._lock:
            return self._running()

    def counts(self) -> dict[str, int]:
        """Trials by what they count as."""
        with self._lock:
            return self._tally.counts | {"running": len(self._live)}

    def best(self) -> TrialRecord | None:
        """The finished trial of highest validation recall."""
        return self._tally.best

    def trial_seconds(self) -> float:
        """What all trials that have ended took, in all runs of the sweep."""
        return self._tally.seconds

    def mean_seconds(self) -> float | None:
        """What a trial has taken in this run of the sweep; None before one has ended."""
        number, seconds = self._lately
        return seconds / number if number else None

    def growth(self) -> Growth:
        """The hypervolume of the trials that have finished, and how often the front has changed."""
        return self._tally.growth

    def _running(self) -> list[TrialRecord]:
        return [
            TrialRecord(
                run_id="",
                trial_key=live.plan.config.key,
                status=Status.RUNNING,
                config=live.plan.config.model_dump(mode="json"),
                metrics=dict(live.last.figures),
                tags=self.recorder.version,
                start_time=live.started,
            )
            for live in self._live.values()
        ]

    def _put(self, trial: TrialRecord) -> None:
        self._tally.put(trial)
        if not trial.run_id:
            self._unnamed.add(trial.trial_key)

    def _name_runs(self) -> None:
        """Note the ids of runs that the server has made since their trials ended."""
        for key in list(self._unnamed):
            if run_id := self.recorder.run_id(key):
                self._tally.trials[key] = replace(self._tally.trials[key], run_id=run_id)
                self._unnamed.remove(key)

    def is_over(self, key: str) -> bool:
        """Whether a trial has ended for good, and is not to go on either."""
        record = self._tally.trials.get(key)
        return record is not None and record.status.is_final and not self._planner.is_planned(key)

    @property
    def rules_end_trials(self) -> bool:
        """Whether there is any rule that ends trials before their last step, and may let them go on later."""
        return bool(self._rules)

    def _count_steps(self, key: str, step: int) -> None:
        """Count what a trial has been trained; one that goes on from a checkpoint begins below where it was."""
        before = self._trained.get(key, 0)
        self._budget.steps += max(0, step - before)
        self._trained[key] = max(step, before)

    def _promote(self, *, thorough: bool = False) -> None:
        """Plan what a rule has ended and now lets go on; each goes on from its checkpoint."""
        plans = self._rules.promote(thorough=thorough)
        self._planner.again(plans)
        for plan in plans:
            self.recorder.promoted(plan.config.key)

    def is_exhausted(self) -> bool:
        """Whether the search has no more to propose, whatever the budget allows."""
        return self._peeked is None and not self._planner.has_plan()

    @property
    def answered(self) -> int:
        """Trials that were answered from the ledger."""
        return self._planner.answered

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the search went."""
        return self._planner.notes

    def _record_impossible(self, trial: Impossible) -> None:
        key = self.recorder.impossible(trial)
        now = time.time()
        record = TrialRecord(
            run_id="",
            trial_key=key,
            status=Status.INVALID,
            config=dict(trial.settings),
            metrics={},
            tags=self.recorder.version,
            failure=trial.reason,
            start_time=now,
            end_time=now,
        )
        with self._lock:
            self._put(record)

    def _tell_proposed(self) -> None:
        if self._planner.proposed > self._proposed:
            self._proposed = self._planner.proposed
            self.recorder.proposed(self._proposed)

    def steps(self) -> int:
        """Steps that the sweep has trained, in all its runs."""
        return self._budget.steps

    def out_of_budget(self) -> str | None:
        """Which part of its budget the sweep has used up, in all its runs; None: it may go on."""
        return self._budget.used_up(self.elapsed())

    def budget_left(self) -> str:
        """What is left of the sweep's budget, in words; empty if it has none."""
        return self._budget.left(self.elapsed())

    def budget_seconds_left(self) -> float:
        """How long the sweep's budget lasts at its pace so far."""
        return self._budget.seconds_left(self.elapsed())

    def elapsed(self) -> float:
        """Seconds that the sweep has taken, in all its runs."""
        return self._before + time.time() - self.started

    def tell_time(self) -> None:
        """Note what the sweep and its running trials have taken, for its later runs; any thread may call."""
        self.recorder.spent(self.elapsed(), self._budget.steps)
        for key, seconds in self._running_seconds().items():
            self.recorder.ran(key, seconds)
