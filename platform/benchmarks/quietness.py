"""Does a throughput measurement notice the trials that keep every core busy beside it?"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from recallfront.platform.benchmarks.trials import bench_spec, trials_of, workplace
from recallfront.platform.lineage import code_version
from recallfront.platform.measure import THROUGHPUTS, measured
from recallfront.platform.quiet import Device
from recallfront.platform.reports import Workplace
from recallfront.platform.trial import run_trial
from recallfront.sweeps.trial import MeasurementConfig, TrialConfig

Count = Any  # a number that two processes share: multiprocessing's own type is generic in its stubs alone
Counts = list[Count]


@dataclass
class Quietness:
    """Tokens per second of one architecture, round by round: alone, and beside trials on every core."""

    alone: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in THROUGHPUTS})
    beside: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in THROUGHPUTS})

    def ratio(self, name: str) -> float:
        """Of medians, beside others to alone."""
        return statistics.median(self.beside[name]) / statistics.median(self.alone[name])


def quietness(home: Path, *, rounds: int = 7, neighbours: int | None = None) -> Quietness:
    """Measure in turn alone and while `neighbours` trials (by default one a core) train in other processes."""
    config = next(trials_of(bench_spec(width=64, measurement=_PROTOCOL.model_dump())))
    found = Quietness()
    with _training(home, neighbours or os.cpu_count() or 1) as (go, steps), closing(Device("cpu")) as device:
        for _ in range(rounds):
            for results, busy in ((found.alone, False), (found.beside, True)):
                _set(go, steps, busy)
                figures = measured(
                    config,
                    device=device,
                    folder=home / "measurements",
                    code_version=code_version(),
                    fresh=True,
                )
                for name in THROUGHPUTS:
                    results[name].append(figures[name])
    return found


_PROTOCOL = MeasurementConfig(
    batch_size=4, context_length=128, train_length=64, decode_tokens=24, repeats=5, max_repeats=5
)


@contextmanager
def _training(home: Path, processes: int) -> Iterator[tuple[Event, Counts]]:
    """Trials that train as long as the event is set; each counts its reports."""
    spec = bench_spec(
        width=64, steps=10**6, training={"steps": 10**6, "batch_size": 32, "evaluate_every": 10}
    )
    place = workplace(spec, home, scratch="neighbours")
    spawn = multiprocessing.get_context("spawn")
    go, counts = spawn.Event(), [spawn.Value("l", 0) for _ in range(processes)]
    configs = [next(trials_of(spec)).model_copy(update={"seed": seed}) for seed in range(processes)]
    started = [
        spawn.Process(target=_train, args=(config, place, go, count), daemon=True)
        for config, count in zip(configs, counts, strict=True)
    ]
    for process in started:
        process.start()
    try:
        yield go, counts
    finally:
        for process in started:
            process.kill()
            process.join()


def _train(config: TrialConfig, place: Workplace, go: Event, count: Count) -> None:
    for report in run_trial(config, place):
        if report.failure:
            raise RuntimeError(report.failure)
        count.value += 1
        go.wait()


def _set(go: Event, counts: Counts, busy: bool) -> None:
    """Let the neighbours train, or stand still, and wait until they do."""
    go.set() if busy else go.clear()
    if busy:
        before = [count.value for count in counts]
        while any(count.value == was for count, was in zip(counts, before, strict=True)):
            time.sleep(0.01)
        return
    while True:
        before = [count.value for count in counts]
        time.sleep(0.5)
        if before == [count.value for count in counts] and min(before) > 0:
            return
