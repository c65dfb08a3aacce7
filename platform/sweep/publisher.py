"""Publishing a sweep's front while it runs: to MLflow and to files, whenever a finished trial has changed it.

Plotly is imported with the first picture, so that the command starts fast.
"""

import logging
import math
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
from recallfront.platform.results.records import EXHAUSTED, TAG
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.trial.quiet import Device

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # between two looks
_LEAST_SECONDS = 10.0  # between two drawings
_SHARE = 0.03  # of a core, at most, that drawing takes from trials


class Publisher(Companion):
    """A thread that looks at the front whenever a trial has ended, for as long as it is entered."""

    def __init__(self, conductor: Conductor, recorder: Recorder, folder: Path) -> None:
        super().__init__("publisher")
        self._conductor, self._recorder, self._folder = conductor, recorder, folder
        self._drawn: tuple[int, int] | None = None
        self._due_at = 0.0
        self._finished_told = 0
        self._told = 0.0  # the hypervolume of last
        self.front: Front | None = None
        self.files: dict[str, Path] = {}

    def finish(self) -> dict[str, Path]:
        """Publish once more what the sweep came to; returns the files of the front by kind."""
        self._try_to_publish(last=True)
        return self.files

    def judge(self) -> tuple[Judgement, ...]:
        """Judge the claims of a sweep that has ended, and publish the verdicts."""
        record = self._conductor.record()
        planned, exhausted = self._conductor.spec.number_of_trials, self._conductor.is_exhausted()
        tags = {"trials_planned": str(planned), EXHAUSTED: str(exhausted)}
        judgements = judge(replace(record, tags=record.tags | tags))
        self._recorder.claims(judgements)
        return judgements

    def _run(self) -> None:
        while not self._done.is_set():
            self._conductor.changed.wait()
            self._conductor.changed.clear()
            if not self._done.is_set():
                self._try_to_publish()
                self._done.wait(_LOOK_SECONDS)

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
        self.tell_counts()
        self._recorder.send_log()
        finished, growth = self._conductor.counts()["finished"], self._conductor.growth()
        if not finished:
            if last:
                self._recorder.on_front(())  # what was on it may be of earlier code or data
            return
        self._tell_hypervolume(growth.hypervolume, finished)
        shown = growth.changes, finished if last else 0
        if shown == self._drawn or not (last or time.monotonic() >= self._due_at):
            return
        self._drawn = shown
        began = time.thread_time()
        self.front = build_front(self._conductor.record())
        if last:
            self._recorder.on_front({key for member in self.front.members for key in member.trial_keys})
        # drawing would falsify a running measurement
        with closing(Device("cpu")) as device, device.shared():
            self.files = self._draw(self.front)
        if last and not math.isclose(self.front.hypervolume, self._told, rel_tol=1e-9):
            # figures were measured again; what was told after so many trials stands, as a step is told once
            self._tell_hypervolume_in_time(self.front.hypervolume)
        self._recorder.front_files(self._folder / "front")
        self._describe(self.front)
        self._due_at = time.monotonic() + max(_LEAST_SECONDS, (time.thread_time() - began) / _SHARE)

    def _describe(self, front: Front) -> None:
        if run_id := self._recorder.sweep_run_id():
            told, plugins = self._conductor.spec.description, self._recorder.plugin_files
            note = sweep_note(run_id, front, description=told, plugins=plugins)
            self._recorder.sweep_tags({"mlflow.note.content": note})

    def _draw(self, front: Front) -> dict[str, Path]:
        from recallfront.platform.front.pictures.figures import write_front

        folder, new = self._folder / "front", self._folder / "front.new"
        shutil.rmtree(new, ignore_errors=True)
        names = [path.name for path in write_front(front, new).values()]
        take_place(new, folder)
        return {Path(name).suffix[1:]: folder / name for name in names}

    def tell_counts(self) -> None:
        """Note how many trials have ended and how, and what they took, with the sweep."""
        elapsed, busy = self._spent()
        left = self._conductor.budget_left()
        self._recorder.sweep_tags(
            {f"{TAG}trials_{name}": str(number) for name, number in self._conductor.counts().items()}
            | {f"{TAG}elapsed_seconds": f"{elapsed:.0f}", f"{TAG}device_seconds": f"{busy:.0f}"}
            | ({f"{TAG}budget_left": left} if left else {})
        )

    def _tell_hypervolume(self, hypervolume: float, finished: int) -> None:
        if finished <= self._finished_told:
            return
        self._finished_told = finished
        self._recorder.sweep_metrics([("hypervolume", hypervolume, finished)])
        self._tell_hypervolume_in_time(hypervolume)

    def _tell_hypervolume_in_time(self, hypervolume: float) -> None:
        self._told = hypervolume
        elapsed, busy = self._spent()
        self._recorder.sweep_metrics(
            [
                ("hypervolume_by_elapsed_seconds", hypervolume, round(elapsed)),
                ("hypervolume_by_device_seconds", hypervolume, round(busy)),
                ("hypervolume_by_training_steps", hypervolume, self._conductor.steps()),
            ]
        )

    def _spent(self) -> tuple[float, float]:
        """Seconds that the sweep has taken, in all its runs, and seconds of its devices."""
        resources = self._conductor.spec.resources
        devices = resources.workers * (resources.gpus or resources.cpus)
        return self._conductor.elapsed(), devices * self._conductor.trial_seconds()
