"""A sweep played trial by trial: its real driver but for Ray, and trials that report what the test says."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from recallfront.benchmarks.platform.scale import driver
from recallfront.benchmarks.platform.trials import ARCHITECTURES, bench_spec
from recallfront.platform.results.cancellation import BEAT
from recallfront.platform.results.records import TAG
from recallfront.platform.results.reports import Report, now_ms
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.driverless import BEAT_SECONDS, beat_sign
from recallfront.platform.sweep.publisher import Publisher
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.spec import SweepSpec

STEPS = 20


class Played:
    """What a trial does is in the store when a method returns."""

    def __init__(self, conductor: Conductor, publisher: Publisher, writer: TrackingWriter) -> None:
        self.conductor, self._publisher, self._writer = conductor, publisher, writer
        self.tell()

    @property
    def run_id(self) -> str:
        return self.conductor.recorder.sweep_run_id()

    def begin(self, name: str) -> str:
        """The run of the next trial."""
        plan = self.conductor.next(name)
        assert plan is not None
        self.tell()
        return self.conductor.recorder.run_id(plan.config.key)

    def measured(self, name: str, speed: float) -> None:
        figures = {"decode_tokens_per_second": speed, "state_bytes": 4096.0}
        self.conductor.report(name, Report(step=0, figures=figures))
        self.conductor.placed(name, "node-1")
        self.tell()

    def trained(self, name: str, step: int, recall: float) -> None:
        self.conductor.report(name, self._report(name, step, {"validation_recall": recall}))
        self.tell()

    def end(self, name: str, recall: float) -> None:
        figures = {"validation_recall": recall, "recall": recall}
        self.conductor.report(name, self._report(name, STEPS, figures, status=Status.FINISHED))
        self.conductor.ended(name)
        self.tell()

    def train(self, name: str, place: Workplace) -> str:
        """Begin the next trial and really train it, in this process -> its run."""
        run = self.begin(name)
        for report in run_trial(self.conductor.config(name), place):
            self.conductor.report(name, report)
        assert self.conductor.ended(name) is Status.FINISHED
        self.tell()
        return run

    def tell(self) -> None:
        self._publisher.tell_counts()
        assert self._writer.flush(60.0)

    def _report(self, name: str, step: int, found: dict[str, float], **more: Any) -> Report:
        known = self.conductor._live[name].last.figures
        rows = [(metric, value, step, now_ms()) for metric, value in found.items()]
        return Report(step=step, rows=[("loss", 1.0, step, now_ms()), *rows], figures=known | found, **more)


def spec_of(name: str, **changes: Any) -> SweepSpec:
    """A sweep of the field's architectures; `changes` replace keys of its specification."""
    training = {"steps": STEPS, "batch_size": 32, "evaluate_every": STEPS // 2}
    usual: dict[str, Any] = {"name": name, "training": training, "budget": {"trials": 6}, "concurrent": 2}
    return bench_spec(*ARCHITECTURES, **usual | changes)


@contextmanager
def played(home: Path, uri: str, name: str, **changes: Any) -> Iterator[Played]:
    """Such a sweep in a store, of which no trial has begun."""
    spec = spec_of(name, **changes)
    with closing(TrackingWriter(uri, home / "spool" / f"{name}.sqlite")) as writer:
        yield Played(*driver(spec, home, writer), writer)


@contextmanager
def beating(uri: str, sweep: Played) -> Iterator[None]:
    """Beats of a driver from the start: without them a page takes it for killed after 30 s."""
    client, done = open_client(uri), threading.Event()

    def beat() -> None:
        number = 0
        while True:
            number += 1
            client.set_tag(sweep.run_id, f"{TAG}{BEAT}", beat_sign("played", number))
            if done.wait(BEAT_SECONDS / 2):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
