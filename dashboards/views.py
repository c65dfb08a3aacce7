"""What the pages show, read off records: plain values for the templates, no markup."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recallfront.platform.front.candidates import Candidate, gather
from recallfront.platform.front.claims import Judgement, judge
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.history import devices
from recallfront.platform.front.next_steps import next_commands
from recallfront.platform.front.tables import PLACE_MARKS
from recallfront.platform.metrics import columns_of, show
from recallfront.platform.results.labels import varying_knobs
from recallfront.platform.results.records import SweepRecord, TrialRecord, count, planned, say_counts
from recallfront.platform.results.status import Status

# tag of a sweep -> word on the page
STATES = {"running": "running", "finished": "finished", "error": "failed", "interrupted": "interrupted"}


@dataclass(frozen=True)
class TrialLine:
    """One trial in the table of a sweep's page."""

    run_id: str
    label: str
    seed: Any
    status: str
    is_failure: bool
    figures: tuple[str, ...]  # in the order of the page's columns
    seconds: float | None  # none where it was left
    failure: str


@dataclass(frozen=True)
class CandidateLine:
    """One configuration in the table of the front."""

    mark: str
    label: str
    architecture: str
    on_front: bool
    is_knee: bool
    figures: tuple[str, ...]
    share: float  # of the hypervolume, 0 to 1, that would be lost without it
    n_seeds: int
    doubts: str
    run_id: str


@dataclass(frozen=True)
class SweepView:
    """A sweep's page, or its line on the first page."""

    record: SweepRecord  # with the trials of the newest code and data alone
    older: int  # trials of earlier ones
    front: Front
    experiment_id: str  # MLflow's
    state: str
    counts: dict[str, int]  # trials by what they count as
    planned: int  # trials that the sweep is to have; as many as there are where that is not known
    started: float  # seconds since the epoch; 0 before the first trial
    seconds: float  # from the first trial's start to the last one's end, or to now
    device_hours: float

    def link(self, run_id: str) -> str:
        """Where MLflow shows a run; it opens on traces of language models unless told what is looked for."""
        return f"/#/experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning"

    @property
    def told(self) -> str:
        """The counts in words."""
        return say_counts(self.counts, self.planned)

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

    @property
    def candidates(self) -> list[CandidateLine]:
        """The front first, each part slowest first."""
        ordered = sorted(self.front.candidates, key=lambda c: not c.on_front)
        return [self._candidate(candidate) for candidate in ordered]

    @property
    def trials(self) -> list[TrialLine]:
        """Running ones first, then the latest to start."""
        varying = varying_knobs(self.record.trials)
        ordered = sorted(self.record.trials, key=lambda t: (t.status is not Status.RUNNING, -t.start_time))
        return [self._trial(trial, varying) for trial in ordered]

    @cached_property
    def judgements(self) -> tuple[Judgement, ...]:
        """The verdicts on its claims."""
        return judge(self.record)

    @property
    def hypervolume(self) -> str:
        return show("hypervolume", self.front.hypervolume) if self.front.candidates else "–"

    def commands(self, tracking_uri: str) -> list[tuple[str, str]]:
        """What to do next on the command line: (what it does, command)."""
        sweep = self.record.sweep_key[:12] or self.record.run_id
        return next_commands(self.front, sweep, options=f" --tracking-uri {shlex.quote(tracking_uri)}")

    def _candidate(self, candidate: Candidate) -> CandidateLine:
        return CandidateLine(
            mark=PLACE_MARKS[candidate.on_front, candidate.certain],
            label=candidate.label,
            architecture=candidate.architecture,
            on_front=candidate.on_front,
            is_knee=candidate is self.front.knee,
            figures=tuple(candidate.describe(metric) for metric in self.columns),
            share=candidate.contribution / self.front.hypervolume if self.front.hypervolume else 0.0,
            n_seeds=candidate.n_seeds,
            doubts=", ".join(candidate.doubts),
            run_id=candidate.run_ids[0],
        )

    def _trial(self, trial: TrialRecord, varying: Sequence[str]) -> TrialLine:
        alone = gather([trial], varying)
        left = trial.status is Status.RUNNING and not self.is_running  # by a driver that is gone
        return TrialLine(
            run_id=trial.run_id,
            label=alone.label,
            seed=trial.config.get("seed", ""),
            status="unfinished" if left else trial.status.value.replace("_", " "),
            is_failure=trial.status.is_failure,
            figures=tuple(alone.describe(metric) for metric in self.columns),
            seconds=None if left else (trial.end_time or time.time()) - trial.start_time,
            failure=trial.failure or "",
        )


def view_of(record: SweepRecord, experiment_id: str, *, driverless: bool = False) -> SweepView:
    """Read a sweep's record for its page; `driverless` says that no process drives it, whatever its tag says.

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
        state=state,
        counts=count(record, driverless=state != "running"),
        planned=max(planned(record.tags), len(record.trials)),
        started=started,
        seconds=max(ends, default=started) - started,
        device_hours=sum(devices(t) * ((t.end_time or 0.0) - t.start_time) / 3600 for t in ended),
    )
