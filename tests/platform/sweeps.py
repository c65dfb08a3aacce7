"""What tests read of a sweep that was run, where its trials run, and waiting for what one of its processes does."""

import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

from recallfront.platform import SweepResult
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import prepare
from recallfront.sweeps.trial import TrialConfig

# CPU of a bare interpreter that adds up 10^7 numbers, where bounds on time were set
_COMPUTES_SECONDS = 0.15


def stored(result: SweepResult) -> tuple[TrialRecord, ...]:
    """The trials of a sweep as its store has them."""
    return read_sweep(result.tracking_uri, result.record.sweep_key).trials


def history(result: SweepResult, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every point that a run has of a metric, doubled ones included."""
    points = open_client(result.tracking_uri).get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in points)


def trials_of(spec: SweepSpec) -> Iterator[TrialConfig]:
    """The trials of a grid with the first of its seeds."""
    for block, knobs in spec.grid():
        yield spec.trial(block, knobs, spec.seeds[0])


def workplace(spec: SweepSpec, home: Path) -> Workplace:
    """Where the trials of a sweep run, its data built."""
    data, digest = prepare(spec.task, home / "data")
    return Workplace(home=home.resolve(), data=data, data_digest=digest, code_version=code_version())


def steps_in(log: str) -> list[int]:
    """The steps that a sweep's log has figures of, in order; what a trial repeats is in it again."""
    return [int(step) for step in re.findall(r"  step (\d+): ", log)]


def wait_for(
    condition: Callable[[], object],
    *,
    driver: "Popen[str] | None" = None,
    seconds: float = 300.0,
    pause: float = 0.02,
) -> None:
    """Wait until a condition holds, asked after each pause (seconds); the driver's process may not end before."""
    deadline = time.monotonic() + seconds
    while True:
        is_over = driver is not None and driver.poll() is not None
        if condition():
            return
        assert not is_over, "the driver has ended"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)


def times_slower() -> float:
    """How many times longer than on an idle machine such as the bounds are of a bare interpreter takes just now.

    1 at least; more where others compute beside, and where the machine itself is slower.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-I", "-c", "sum(range(10**7))"], check=True)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return max(1.0, took / min(computed, _COMPUTES_SECONDS))
