"""What the pages show, read off records: plain values for the templates, no markup."""

import re
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recallfront.dashboards.computed import Computed, results_of
from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate, gather
from recallfront.platform.front.claims import Judgement, judge
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.history import devices
from recallfront.platform.front.next_steps import next_commands
from recallfront.platform.metrics import columns_of, show
from recallfront.platform.results.labels import varying_knobs
from recallfront.platform.results.records import SweepRecord, TrialRecord, count, planned, say_counts
from recallfront.platform.results.status import Status
from recallfront.sweeps.load import load_study, studies
from recallfront.sweeps.suite import Suite

# tag of a sweep -> word on the page
STATES = {"running": "running", "finished": "finished", "error": "failed", "interrupted": "interrupted"}


_judged = Computed[tuple[Judgement, ...]](64)
MOST_TRIALS = 200  # in the table; the explorer and MLflow have all of them


@dataclass(frozen=True)
class TrialLine:
    """One trial in the table of a sweep's page."""

    run_id: str
    key: str  # the first digits of its trial key
    label: str
    seed: Any
    status: str
    is_failure: bool
    figures: tuple[str, ...]  # in the order of the page's columns
    seconds: float | None  # none if it was left
    failure: str


@dataclass(frozen=True)
class SweepView:
    """A sweep's page, or its line on the first page."""

    record: SweepRecord  # with the trials of the newest code and data alone
    older: int  # trials of earlier ones
    front: Front
    experiment_id: str  # MLflow's
    owner: str  # who ran it; empty if that is not known
    state: str
    counts: dict[str, int]  # trials by what they count as
    planned: int  # trials that the sweep is to have; as many as there are where that is not known
    started: float  # seconds since the epoch; 0 before the first trial
    seconds: float  # from the first trial's start to the last one's end, or to now
    device_hours: float
    plugins_of: Callable[[str], Sequence[str]]  # reads the files of plug-ins that a trial's run needs

    def link(self, run_id: str) -> str:
        """Where MLflow shows a run; it opens on traces of language models unless told what is looked for."""
        return f"/#/experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning"

    @property
    def told(self) -> str:
        """The counts in words."""
        return say_counts(self.counts, self.planned)

    @property
    def budget_left(self) -> str:
        """What is left of the sweep's budget, as its driver last told; empty if it has none."""
        return self.record.tags.get("budget_left", "")

    @property
    def waiting(self) -> str:
        """What its driver waits for, as it last told; empty if for nothing."""
        return self.record.tags.get("waiting", "")

    @property
    def is_running(self) -> bool:
        return self.state == "running"

    @property
    def best(self) -> Candidate | None:
        """The configuration of highest validation recall."""
        ranked = [c for c in self.front.candidates if "validation_recall" in c.metrics]
        return max(ranked, key=lambda c: c.metrics["validation_recall"], default=None)

    @property
    def columns(self) -> dict[str, str]:
        """Metric -> heading, in both tables: the objectives, recall on both splits, and the state."""
        return columns_of(self.front.objectives)

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The knobs that tell its trials apart."""
        return varying_knobs(self.record.trials)

    @property
    def trials(self) -> list[TrialLine]:
        """Running ones first, then the latest to start: no more than a person reads."""
        ordered = sorted(self.record.trials, key=lambda t: (t.status is not Status.RUNNING, -t.start_time))
        return [self._trial(trial, self.varying) for trial in ordered[:MOST_TRIALS]]

    @property
    def unlisted(self) -> int:
        """How many trials are in no line of the table."""
        return max(len(self.record.trials) - MOST_TRIALS, 0)

    @property
    def description(self) -> str:
        return str(self.record.spec.get("description", ""))

    @property
    def settings(self) -> list[tuple[str, str]]:
        """What the sweep was asked to do: (setting, value)."""
        spec = self.record.spec
        told = [("ran by", self.owner)] if self.owner else []
        blocks = spec.get("space", [])
        names = dict.fromkeys(str(block.get("architecture")) for block in blocks if isinstance(block, dict))
        told += [("architectures", ", ".join(names))] if names else []
        for part in (
            "task",
            "model",
            "training",
            "measurement",
            "search",
            "early_stopping",
            "resources",
            "start",
        ):
            if isinstance(spec.get(part), dict) and spec[part]:
                told.append((part.replace("_", " "), _in_words(spec[part])))
        limits = spec.get("budget")
        if isinstance(limits, dict) and any(v is not None for k, v in limits.items() if k != "gain_trials"):
            told.append(("budget", _in_words(limits)))
        for part in ("seeds", "concurrent", "retries"):
            if spec.get(part) is not None:
                told.append((part.replace("_", " "), _in_words(spec[part])))
        return told

    @cached_property
    def judgements(self) -> tuple[Judgement, ...]:
        """The verdicts on its claims."""
        if not self.record.spec.get("claims"):
            return ()
        return _judged.of(results_of(self.record), lambda: judge(self.record))

    @property
    def hypervolume(self) -> str:
        return show("hypervolume", self.front.hypervolume) if self.front.candidates else "–"

    @property
    def sweep_name(self) -> str:
        """What a command calls the sweep."""
        return self.record.sweep_key[:8] or self.record.run_id

    @cached_property
    def specification_file(self) -> str:
        """What `recallfront run` continues the sweep with: a study's name, or the file that the page offers."""
        known = load_study(self.record.name) if self.record.name in studies() else None
        # a suite has sweeps of other names
        if known is not None and not isinstance(known, Suite) and known.key == self.record.sweep_key:
            return self.record.name
        return re.sub(r"[^\w.-]", "_", self.record.name, flags=re.ASCII)[:80] + ".yaml"

    @property
    def plugin_files(self) -> Sequence[str]:
        """Files of plug-ins that its commands need; none as long as they cannot be read."""
        with suppress(UsageError):
            return self._plugin_files
        return ()

    @cached_property
    def _plugin_files(self) -> Sequence[str]:
        """Those of one trial, a finished one if there is one."""
        trials = (*self.record.with_status(Status.FINISHED), *self.record.trials)
        run_id = next((trial.run_id for trial in trials if trial.run_id), "")
        return self.plugins_of(run_id) if run_id else ()

    def commands(self, tracking_uri: str) -> list[tuple[str, str]]:
        """What to do next on the command line: (what it does, command)."""
        options = f" --tracking-uri {shlex.quote(tracking_uri)}"
        return next_commands(self.front, self.sweep_name, options=options, plugins=self.plugin_files)

    def _trial(self, trial: TrialRecord, varying: Sequence[str]) -> TrialLine:
        alone = gather([trial], varying)
        left = trial.status is Status.RUNNING and not self.is_running  # by a driver that is gone
        return TrialLine(
            run_id=trial.run_id,
            key=trial.trial_key[:12],
            label=alone.label,
            seed=trial.config.get("seed", ""),
            status="unfinished" if left else trial.status.value.replace("_", " "),
            is_failure=trial.status.is_failure,
            figures=tuple(alone.describe(metric) for metric in self.columns),
            seconds=None if left else seconds_of(trial),
            failure=trial.failure or "",
        )


def seconds_of(trial: TrialRecord, now: float | None = None) -> float:
    """How long it has run, without the rests between its attempts; of one that runs, as its driver told last."""
    if trial.end_time is not None or "run_seconds" in trial.tags:
        return trial.seconds
    return max((time.time() if now is None else now) - trial.start_time, 0.0)


def _in_words(value: Any) -> str:
    """A part of a specification in one line; what is not set is left out."""
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {_in_words(own)}" for name, own in value.items() if own not in (None, {}, [])
        )
    if isinstance(value, list):
        return ", ".join(f"({_in_words(own)})" if isinstance(own, dict) else _in_words(own) for own in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def view_of(
    record: SweepRecord,
    experiment_id: str,
    *,
    owner: str = "",
    driverless: bool = False,
    plugins_of: Callable[[str], Sequence[str]] = lambda run_id: (),
) -> SweepView:
    """Read a sweep's record for its page.

    Args:
        record: of all its trials.
        experiment_id: MLflow's.
        owner: who ran it; empty if that is not known.
        driverless: that no process drives it, whatever its tag says.
        plugins_of: reads the files of plug-ins that a trial's run needs; called only for a page with commands.

    Raises:
        UsageError: when its specification has not reached the store yet.
    """
    of_all_versions, record = len(record.trials), record.current()
    started = min((trial.start_time for trial in record.trials), default=0.0)
    ended = [trial for trial in record.trials if trial.end_time is not None]
    state = STATES.get(record.tags.get("status", ""), "unknown")
    if state == "running" and driverless:
        state = "killed"
    running = len(record.with_status(Status.RUNNING))
    ends = [trial.end_time for trial in ended if trial.end_time is not None]
    if state == "running" and running:
        ends.append(time.time())
    return SweepView(
        record=record,
        older=of_all_versions - len(record.trials),
        front=build_front(record),
        experiment_id=experiment_id,
        owner=owner,
        state=state,
        counts=count(record, driverless=state != "running"),
        planned=max(planned(record.tags), len(record.trials)),
        started=started,
        seconds=max(ends, default=started) - started,
        device_hours=sum(devices(t) * t.seconds / 3600 for t in ended),
        plugins_of=plugins_of,
    )
