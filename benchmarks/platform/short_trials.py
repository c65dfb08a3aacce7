"""What a trial costs beyond its body: trials that only sleep and report, through Tune, conductor, writer and store."""

import json
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recallfront.benchmarks.platform.scale import STEPS, driver, scale_spec, spent, synthetic_figures
from recallfront.benchmarks.platform.trials import small_ray, workplace
from recallfront.platform.cluster.fit import Room
from recallfront.platform.results.reports import Report, now_ms
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.tune import run_trials
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial.workplace import read_workplace
from recallfront.platform.workers.actor import TrialActor
from recallfront.sweeps.trial import TrialConfig

BODY_SECONDS: Final = 0.5
_AT_ONCE: Final = 2


@dataclass(frozen=True)
class ShortTrials:
    """A trial's costs, of so many in a row, two at once; seconds."""

    beyond: tuple[float, ...]  # wall time beyond the body, of each
    driver: float  # CPU of the driver, without the two that follow
    writing: float  # CPU of the thread that writes to MLflow
    drawing: float  # CPU of the thread that draws the front


def short_trials(home: Path, trials: int = 100) -> ShortTrials:
    """Run `trials` trials or a few more; the first of each actor, which starts its process, are not counted."""
    spec = scale_spec(trials)
    writer = TrackingWriter(prepare_store(None, home), home / "spool" / "short.sqlite")
    moments: list[tuple[float, ...]] = []
    try:
        conductor, publisher = driver(spec, home, writer)
        ended = conductor.ended

        def noted(*args: Any, **kwargs: Any) -> Status:
            status = ended(*args, **kwargs)
            moments.append((time.perf_counter(), *spent()))
            return status

        conductor.ended = noted  # type: ignore[method-assign]
        with small_ray(), publisher:
            run_trials(conductor, workplace(spec, home), Room(spec.resources, _AT_ONCE), actor=SleepingActor)
        writer.flush(600)
    finally:
        writer.close()
    ends = [moment[0] for moment in moments]
    # of two at once, the one that begins when a trial ends is the next but one to end
    beyond = [later - end - BODY_SECONDS for end, later in zip(ends, ends[_AT_ONCE:], strict=False)]
    process, writing, drawing = (
        (last - first) / len(beyond)
        for first, last in zip(moments[_AT_ONCE - 1][1:], moments[-1][1:], strict=True)
    )
    return ShortTrials(tuple(beyond), process - writing - drawing, writing, drawing)


class SleepingActor(TrialActor):
    """Sleeps where a trial would train, and reports what one reports.

    The first trial of each process lasts until all processes are up. Tune gives the process of a trial that has ended
    to the one that waits for its own, and ends what was starting for it: without this, trials that take less time than
    a process takes to start would run one at a time.
    """

    def _start(self, config: dict[str, Any]) -> None:
        home = read_workplace(json.loads(config["place"])).home
        (home / f"up-{os.getpid()}").touch()
        self._reports = _reports(TrialConfig.model_validate_json(config["trial"]).key, home)


def _reports(key: str, home: Path) -> Generator[Report, None, None]:
    found = synthetic_figures(key)
    trained = {name: found.pop(name) for name in ("recall", "validation_recall", "loss", "validation_loss")}
    yield Report(step=0, figures=dict(found))
    while len(list(home.glob("up-*"))) < _AT_ONCE:
        time.sleep(0.05)
    time.sleep(BODY_SECONDS)
    rows = [("loss", 4.0 - step / STEPS, step, now_ms()) for step in range(1, STEPS)]
    rows += [(name, value, STEPS, now_ms()) for name, value in trained.items()]
    yield Report(step=STEPS, rows=rows, figures=found | trained, status=Status.FINISHED)
