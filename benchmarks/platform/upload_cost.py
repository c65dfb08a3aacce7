"""What uploads cost the trials: training whose checkpoints go to a home at an address beside training in a local home.

Ray is imported once its environment is set.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recallfront.benchmarks.platform.medians import Paired
from recallfront.benchmarks.platform.trials import (
    actor_config,
    bench_spec,
    reports_of,
    small_ray,
    trials_of,
    workplace,
)
from recallfront.platform.home import home_folder
from recallfront.sweeps.trial import TrainingConfig

BETWEEN: Final = 50  # steps between checkpoints
_STATE: Final = "RECALLFRONT_STATE"


@dataclass
class UploadCost(Paired):
    """Wall seconds of equal stretches of training, in turn with uploads of their checkpoints and without."""

    checkpoints: int  # within a stretch
    uploaded: list[float] = field(default_factory=list)
    local: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of training time, if checkpoints are as far apart as they are by default."""
        return self.median / apart()

    def pairs(self) -> list[float]:
        """The seconds that an upload adds to training."""
        return [(on - off) / self.checkpoints for on, off in zip(self.uploaded, self.local, strict=True)]


def apart() -> float:
    """Least seconds between two checkpoints, by default."""
    return float(TrainingConfig.model_fields["checkpoint_seconds"].default)


def upload_cost(home: Path, *, address: str | None = None, pairs: int = 8, stretch: int = 8) -> UploadCost:
    """Train in a warm actor; a checkpoint is written every 50 steps, and `stretch` of them are timed.

    A pair's order alternates. `address`: of the home that is uploaded to; without one, a folder at a `file://` address.
    """
    import ray

    from recallfront.platform.workers.actor import TrialActor

    steps = BETWEEN * (stretch + 2)
    training = {"steps": steps, "batch_size": 32, "evaluate_every": BETWEEN, "checkpoint_seconds": 0.0}
    spec = bench_spec(width=32, training=training, seeds=list(range(pairs + 1)))
    warms, *trials = trials_of(spec)
    found = UploadCost(stretch)
    with _state_in(home / "state"), small_ray():
        places = [
            workplace(spec, home_folder(address or (home / "store").as_uri())),
            workplace(spec, home / "local"),
        ]
        actor: Any = ray.remote(num_cpus=1)(TrialActor).remote(actor_config(warms, places[0]))
        _stretch(actor, steps)
        for number, trial in enumerate(trials):
            for uploads in (True, False) if number % 2 else (False, True):
                ray.get(actor.reset.remote(actor_config(trial, places[not uploads])))
                (found.uploaded if uploads else found.local).append(_stretch(actor, steps))
        ray.kill(actor)
    return found


@contextmanager
def _state_in(folder: Path) -> Iterator[None]:
    """Have this process, and those that it starts, keep their copies of homes at addresses in this folder."""
    before = os.environ.get(_STATE)
    os.environ[_STATE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_STATE]
        else:
            os.environ[_STATE] = before


def _stretch(actor: Any, steps: int) -> float:
    """Run a trial to its end -> the wall seconds from its first checkpoint to its last one.

    Raises RuntimeError if a checkpoint was not uploaded.
    """
    stamps = []
    for report in reports_of(actor):
        if report.notices:
            raise RuntimeError(f"a benchmark's trial says: {report.notices[0]}")
        if 0 < report.step < steps:
            stamps.append(time.perf_counter())
    return stamps[-1] - stamps[0]
