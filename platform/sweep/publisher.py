"""Publishing a sweep's front while it runs: to MLflow and to files, whenever a finished trial has changed it.

Plotly is imported with the first picture, so that the command starts fast.
"""

import logging
import shutil
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from recallfront.platform.errors import one_line
from recallfront.platform.front.claims import Judgement, judge
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.pictures.note import sweep_note
from recallfront.platform.home import take_place
from recallfront.platform.results.records import TAG, SweepRecord, count
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.trial.quiet import Device

logger = logging.getLogger(__name__)

_LEAST_SECONDS = 10.0  # between two drawings: they cost a second of a core that trials could use


class Publisher(Companion):
    """A thread that looks at the front whenever a trial has ended, for as long as it is entered."""

    def __init__(self, conductor: Conductor, recorder: Recorder, folder: Path) -> None:
        super().__init__("publisher")
        self._conductor, self._recorder, self._folder = conductor, recorder, folder
        self._drawn: tuple[object, ...] | None = None
        self._drawn_at = 0.0
        self._finished_told = 0
        self.front: Front | None = None
        self.files: dict[str, Path] = {}

    def finish(self) -> dict[str, Path]:
        """Publish once more what the sweep came to; returns the files of the front by kind."""
        self._try_to_publish(last=True)
        return self.files

    def judge(self) -> tuple[Judgement, ...]:
        """Judge the claims of a sweep that has ended, and publish the verdicts."""
        record = self._conductor.record()
        tags = {"trials_planned": str(self._conductor.spec.number_of_trials), "status": "finished"}
        judgements = judge(replace(record, tags=record.tags | tags))
        if judgements:
            self._recorder.claims(judgements)
        return judgements

    def _run(self) -> None:
        while not self._done.is_set():
            self._conductor.changed.wait()
            self._conductor.changed.clear()
            if not self._done.is_set():
                self._try_to_publish()

    def _wake(self) -> None:
        self._conductor.changed.set()

    def _try_to_publish(self, *, last: bool = False) -> None:
        """Publish; an error is recorded with the sweep, which goes on, and the next attempt draws again."""
        try:
            self._publish(last=last)
        except Exception as error:
            self._drawn = None
            reason = f"{type(error).__name__}: {one_line(error)}"
            logger.warning("the front could not be published (%s)", reason)
            self._recorder.sweep_tags({f"{TAG}publishing_failure": reason})

    def _publish(self, *, last: bool = False) -> None:
        record = self._conductor.record()
        finished = record.with_status(Status.FINISHED)
        self._tell_counts(record)
        if not finished:
            return
        self.front = build_front(record)
        self._tell_hypervolume(record, self.front, len(finished))
        members = tuple((member.trial_keys, member.metrics.items()) for member in self.front.members)
        shown = (*map(str, members), len(finished) if last else 0)
        due = last or time.monotonic() - self._drawn_at > _LEAST_SECONDS
        if shown == self._drawn or not due:
            return
        self._drawn, self._drawn_at = shown, time.monotonic()
        # drawing would falsify a running measurement
        with closing(Device("cpu")) as device, device.shared():
            self.files = self._draw(self.front, record)
        self._recorder.front_files(self._folder / "front")
        self._describe(self.front)

    def _describe(self, front: Front) -> None:
        run_id = self._recorder.sweep_run_id()
        if run_id:
            self._recorder.sweep_tags({"mlflow.note.content": sweep_note(run_id, front)})

    def _draw(self, front: Front, record: SweepRecord) -> dict[str, Path]:
        from recallfront.platform.front.pictures.figures import write_front

        folder, new = self._folder / "front", self._folder / "front.new"
        shutil.rmtree(new, ignore_errors=True)
        names = [path.name for path in write_front(front, new).values()]
        take_place(new, folder)
        return {Path(name).suffix[1:]: folder / name for name in names}

    def _tell_counts(self, record: SweepRecord) -> None:
        elapsed, busy = self._spent(record)
        self._recorder.sweep_tags(
            {f"{TAG}trials_{name}": str(number) for name, number in count(record).items()}
            | {f"{TAG}elapsed_seconds": f"{elapsed:.0f}", f"{TAG}device_seconds": f"{busy:.0f}"}
        )

    def _tell_hypervolume(self, record: SweepRecord, front: Front, finished: int) -> None:
        if finished <= self._finished_told:
            return
        self._finished_told = finished
        elapsed, busy = self._spent(record)
        self._recorder.sweep_metrics(
            [
                ("hypervolume", front.hypervolume, finished),
                ("hypervolume_by_elapsed_seconds", front.hypervolume, round(elapsed)),
                ("hypervolume_by_device_seconds", front.hypervolume, round(busy)),
            ]
        )

    def _spent(self, record: SweepRecord) -> tuple[float, float]:
        """Seconds that the sweep has taken, in all its runs, and seconds of its devices."""
        resources = self._conductor.spec.resources
        devices = resources.workers * (resources.gpus or resources.cpus)
        busy = devices * sum((t.end_time or t.start_time) - t.start_time for t in record.trials)
        return self._conductor.elapsed(), busy
