"""Does a throughput measurement notice the trials that keep every core busy beside it?"""

import multiprocessing
import os
import statistics
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from recallfront.benchmarks.platform.medians import median_bounds
from recallfront.benchmarks.platform.trials import bench_spec, trials_of, workplace
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.metrics import THROUGHPUTS
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.measure import measured
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.trial import TrialConfig

_PROTOCOL = {"batch_size": 8, "context_length": 256, "train_length": 128, "decode_tokens": 32, "repeats": 7}

_END_SECONDS = 30.0  # for a neighbour to reach its next report


@dataclass
class Quietness:
    """Tokens per second of one architecture, round by round: alone, and beside trials on every core."""

    alone: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in THROUGHPUTS})
    beside: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in THROUGHPUTS})

    def ratio(self, name: str) -> float:
        """Beside others to alone: the median over the rounds, of which each measured both within seconds."""
        return statistics.median(self._ratios(name))

    def bounds(self, name: str) -> tuple[float, float]:
        """What that median lies between with 90 % confidence: others may use the machine, too."""
        return median_bounds(self._ratios(name))

    def _ratios(self, name: str) -> list[float]:
        return [beside / alone for beside, alone in zip(self.beside[name], self.alone[name], strict=True)]


def quietness(home: Path, *, rounds: int = 9, neighbours: int | None = None) -> Quietness:
    """Measure alone and while `neighbours` trials (by default one a core) train in other processes, in turn."""
    config = next(trials_of(bench_spec(width=64, measurement=_PROTOCOL | {"max_repeats": 7})))
    found = Quietness()
    with _Neighbours(home, neighbours or os.cpu_count() or 1) as trials, closing(Device("cpu")) as device:
        for number in range(rounds):
            for busy in (number % 2 == 0, number % 2 == 1):  # the order alternates: a drift favours neither
                trials.train() if busy else trials.stand_still()
                figures = measured(
                    config,
                    device=device,
                    folder=home / "measurements",
                    code_version=code_version(),
                    fresh=True,
                )
                for name in THROUGHPUTS:
                    (found.beside if busy else found.alone)[name].append(figures[name])
    return found


class _Neighbours:
    """Real trials in other processes, which train unless the file `pause` is there."""

    def __init__(self, home: Path, processes: int) -> None:
        spec = bench_spec(
            width=64,
            seeds=list(range(processes)),
            training={"steps": 10**6, "batch_size": 32, "evaluate_every": 10},
        )
        place = workplace(spec, home, scratch="neighbours")
        self._pause, self._end = home / "pause", home / "end"
        self._beats = [home / f"beat-{number}" for number in range(processes)]
        spawn = multiprocessing.get_context("spawn")
        self._processes = [
            spawn.Process(target=_train, args=(config, place, self._pause, self._end, beat), daemon=True)
            for config, beat in zip(trials_of(spec), self._beats, strict=True)
        ]

    def __enter__(self) -> "_Neighbours":
        for process in self._processes:
            process.start()
        self.train()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.touch()
        self._pause.unlink(missing_ok=True)
        for process in self._processes:
            process.join(_END_SECONDS)
            process.kill()
            process.join()

    def train(self) -> None:
        """Let them train, and wait until each has."""
        self._pause.unlink(missing_ok=True)
        before = self._counts()
        while any(now <= was for now, was in zip(self._counts(), before, strict=True)):
            self._check()

    def stand_still(self) -> None:
        """Let them wait at their next report, and wait until all do."""
        self._pause.touch()
        while not all(beat.with_suffix(".waits").exists() for beat in self._beats):
            self._check()

    def _counts(self) -> list[int]:
        return [beat.stat().st_size if beat.exists() else 0 for beat in self._beats]

    def _check(self) -> None:
        if not all(process.is_alive() for process in self._processes):
            raise RuntimeError("a trial beside the measurement has ended")
        time.sleep(0.01)


def _train(config: TrialConfig, place: Workplace, pause: Path, end: Path, beat: Path) -> None:
    """A neighbour: one byte more in `beat` a report; `beat`.waits exists while it stands still."""
    waits = beat.with_suffix(".waits")
    for report in run_trial(config, place):
        if report.failure:
            raise RuntimeError(report.failure)
        with beat.open("a") as file:
            file.write(".")
        while pause.exists():
            waits.touch()
            time.sleep(0.01)
        waits.unlink(missing_ok=True)
        if end.exists():
            return
