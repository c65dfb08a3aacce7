"""What tracking costs the trials: training with every step's loss written to MLflow beside training without.

Ray is imported once its environment is set.
"""

import statistics
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recallfront.benchmarks.platform.medians import Paired
from recallfront.benchmarks.platform.trials import (
    actor_config,
    bench_spec,
    reports_of,
    small_ray,
    trials_of,
    workplace,
)
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial.workplace import Workplace


@dataclass
class TrackingCost(Paired):
    """Training seconds of equal trials, in turn with tracking and without."""

    tracked: list[float] = field(default_factory=list)
    untracked: list[float] = field(default_factory=list)
    driver: list[float] = field(default_factory=list)  # CPU seconds of the driver, a tracked trial
    rows: int = 0  # metric rows that MLflow took

    @property
    def driver_share(self) -> float:
        """Of one core that the driver computes while a tracked trial trains; unlike time, others hardly change it."""
        return statistics.median(cpu / wall for cpu, wall in zip(self.driver, self.tracked, strict=True))

    def pairs(self) -> list[float]:
        """How much longer the tracked trial trained, as a share."""
        return [on / off - 1 for on, off in zip(self.tracked, self.untracked, strict=True)]


def tracking_cost(home: Path, *, pairs: int = 12, steps: int = 400) -> TrackingCost:
    """Train in a warm actor; this process is the driver, and holds the writer to a SQLite store.

    Two metrics a step, `loss` and `learning_rate`, arrive in reports of ten steps. A pair's order alternates.
    """
    import ray

    from recallfront.platform.workers.actor import TrialActor

    spec = bench_spec(width=64, length=32, training={"steps": steps, "batch_size": 64, "evaluate_every": 10})
    (config,) = trials_of(spec)
    place = workplace(spec, home)
    found = TrackingCost()
    with small_ray():
        actor: Any = ray.remote(num_cpus=1)(TrialActor).remote(actor_config(config, _fresh(place, 0)))
        with closing(TrackingWriter(prepare_store(None, home), home / "spool" / "bench.sqlite")) as writer:
            _train(actor, None, "")  # warms the actor up
            for number in range(1, 2 * pairs + 1):
                tracks = number % 4 in (1, 0)
                ray.get(actor.reset.remote(actor_config(config, _fresh(place, number))))
                run = f"bench:{number}"
                if tracks:
                    writer.open_run(run, experiment="bench", name=run)
                began = time.process_time()
                seconds, rows = _train(actor, writer if tracks else None, run)
                (found.tracked if tracks else found.untracked).append(seconds)
                if tracks:
                    writer.close_run(run, "FINISHED")
                    found.driver.append(time.process_time() - began)
                    found.rows += rows
                    if not writer.flush(60):  # before the next trial, which is not to pay for this one
                        raise RuntimeError("MLflow did not take the rows within 60 s")
        ray.kill(actor)
    return found


def _fresh(place: Workplace, number: int) -> Workplace:
    return replace(place, scratch=f"tracking/{number}")


def _train(actor: Any, writer: TrackingWriter | None, run: str) -> tuple[float, int]:
    """A trial to its end: (training seconds by its own clock, metric rows that were written)."""
    written = 0
    for report in reports_of(actor):
        if writer is not None and report.rows:
            writer.metrics(run, report.rows)
            written += len(report.rows)
    return report.seconds["train"], written
