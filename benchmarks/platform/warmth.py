"""One warm actor, trial after trial: does its memory stay, and does a result depend on what ran before it?

Ray is imported once its environment is set.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recallfront.benchmarks.platform.trials import (
    ARCHITECTURES,
    actor_config,
    bench_spec,
    small_ray,
    trials_of,
    workplace,
)
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status

_TENTH = 10


@dataclass(frozen=True)
class Warmth:
    """What `trials` trials in one actor left."""

    resident_bytes: list[int]  # after each trial
    first_losses: list[float]  # of the first trial, at every step
    last_losses: list[float]  # of the last one, which has the same configuration

    @property
    def growth(self) -> float:
        """Of resident memory from the tenth trial to the last ones (medians of three), as a share."""
        tenth = statistics.median(self.resident_bytes[_TENTH - 2 : _TENTH + 1])
        return statistics.median(self.resident_bytes[-3:]) / tenth - 1

    @property
    def identical(self) -> bool:
        """Whether the last trial's losses are the first one's, bit for bit."""
        return self.first_losses == self.last_losses


def warmth(home: Path, *, trials: int = 50) -> Warmth:
    """Run so many trials in one actor: the same first and last, every architecture in turn in between."""
    import ray

    from recallfront.platform.workers.actor import TrialActor

    spec = bench_spec(*ARCHITECTURES)
    configs = list(trials_of(spec))
    order = [configs[index % len(configs)] for index in range(trials - 1)] + [configs[0]]
    with small_ray():
        actor: Any = None
        resident, losses = [], []
        for number, config in enumerate(order):
            told = actor_config(config, workplace(spec, home, scratch=f"warmth/{number}"))
            if actor is None:
                actor = ray.remote(num_cpus=1)(TrialActor).remote(told)
            else:
                assert ray.get(actor.reset.remote(told))
            pid, found = _run(actor)
            resident.append(_resident(pid))
            losses.append(found)
        ray.kill(actor)
    return Warmth(resident, losses[0], losses[-1])


def _run(actor: Any) -> tuple[int, list[float]]:
    """A trial of the actor to its end; returns the actor's process id and the losses."""
    import ray

    losses: list[float] = []
    while True:
        result = ray.get(actor.train.remote())
        report = Report.from_json(json.loads(result["report"]))
        losses += [value for name, value, *_ in report.rows if name == "loss"]
        if report.status is not Status.RUNNING:
            if report.status is not Status.FINISHED:
                raise RuntimeError(f"a benchmark's trial ended as {report.status}: {report.failure}")
            return int(result["pid"]), losses


def _resident(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).memory_info().rss)
