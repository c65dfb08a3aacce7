"""A second home finds what the first one found: intervals of throughput overlap, or the measurement is in doubt.

The first home is measured with nothing beside; the second one as well, or beside processes that keep every core busy.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Final

import pytest
import torch

from recallfront.benchmarks.platform.trials import bench_spec
from recallfront.platform.front.candidates import doubts_of
from recallfront.platform.metrics import SPREAD, THROUGHPUTS
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.trial.measure import as_metrics, measured, measured_again
from recallfront.platform.trial.quiet import Device
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.trial import MeasurementConfig, TrialConfig

Figures = dict[str, Any]

pytestmark = pytest.mark.attack

_BLOCKS: list[dict[str, Any]] = [
    {"architecture": "attention", "num_heads": [1, 2]},
    {"architecture": "window", "window_size": [2, 4, 8, 16]},
    {"architecture": "hawk"},
    {"architecture": "griffin", "window_size": [4, 8]},
    {"architecture": "based", "window_size": [4, 8], "feature_dim": [4, 8]},
    {"architecture": "grouped", "group_size": [4, 8]},
    {"architecture": "mamba2"},
    {"architecture": "gla"},
    {"architecture": "retnet"},
    {"architecture": "deltanet"},
    {"architecture": "gated_deltanet"},
]
_APART: Final = 0.1  # of pairs of intervals, at most
_FEW: Final = 2  # that may be apart by chance, however few pairs are sure
_ALWAYS: Final = 0.0  # seconds that load rests
_NOW_AND_THEN: Final = 4.0
# Ends with the test, however that ends. Spells and rests are the same in each process.
_NEIGHBOUR: Final = """
import os, random, sys, time
parent, longest_rest = int(sys.argv[1]), float(sys.argv[2])
length = random.Random(0).uniform
print("runs", flush=True)
while os.getppid() == parent:
    end = time.monotonic() + length(0.2, 2.0)
    while time.monotonic() < end:
        pass
    time.sleep(length(0.0, longest_rest))
"""


@contextmanager
def _load(longest_rest: float) -> Iterator[None]:
    """A process for each core keeps it busy for up to two seconds at a time, with rests of up to so many seconds."""
    command = [sys.executable, "-c", _NEIGHBOUR, str(os.getpid()), str(longest_rest)]
    neighbours = [
        subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        for neighbour in neighbours:
            assert neighbour.stdout and neighbour.stdout.readline() == b"runs\n"
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.communicate()


def _figures(config: TrialConfig, home: Path, *, again: bool = False) -> Figures:
    """As a sweep finds them before a trial, or `again` after the trials if they are in doubt."""
    torch.set_num_threads(config.resources.threads)
    with closing(Device("cpu", home / "locks")) as device:
        where: dict[str, Any] = {"device": device, "folder": home, "code_version": "c"}
        found = measured_again(config, **where) if again else measured(config, **where)
    assert found is not None
    return found


def _doubts(config: TrialConfig, found: Figures, name: str) -> tuple[str, ...]:
    """Why a place on a front is never sure with this throughput as an objective."""
    metrics, _ = as_metrics(found)
    trial = TrialRecord("r", "k", Status.FINISHED, config.model_dump(mode="json"), metrics)
    return doubts_of([trial], [Objective(metric=name)], seeds=1)


def _apart(one: Figures, other: Figures, name: str) -> bool:
    return bool(abs(one[name] - other[name]) > one[name + SPREAD] + other[name + SPREAD])


@pytest.fixture(scope="module")
def configs() -> list[TrialConfig]:
    spec = bench_spec(*_BLOCKS, width=32, measurement=MeasurementConfig(context_length=128).model_dump())
    found = [spec.trial(block, knobs, 0) for block, knobs in spec.grid()]
    assert len(found) == 20
    return found


@pytest.fixture(scope="module")
def quiet(
    configs: list[TrialConfig], tmp_path_factory: pytest.TempPathFactory, seconds: float | None
) -> list[Figures]:
    """Of a home with nothing beside."""
    if seconds is None:
        pytest.skip("takes minutes of a quiet machine: make attack")
    home = tmp_path_factory.mktemp("home")
    for config in configs:
        _figures(config, home)
    return [_figures(config, home, again=True) for config in configs]


@pytest.mark.slow
@pytest.mark.parametrize(
    "longest_rest", [None, _ALWAYS, _NOW_AND_THEN], ids=["quiet", "beside load", "load at times"]
)
def test_the_intervals_of_two_homes_overlap(
    quiet: list[Figures], configs: list[TrialConfig], tmp_path: Path, longest_rest: float | None
) -> None:
    with nullcontext() if longest_rest is None else _load(longest_rest):
        first = [_figures(config, tmp_path) for config in configs]
    again = [_figures(config, tmp_path, again=True) for config in configs]
    pairs = [(number, name) for number in range(len(configs)) for name in THROUGHPUTS]
    sure = [(number, name) for number, name in pairs if not _doubts(configs[number], first[number], name)]
    assert not sure or longest_rest != _ALWAYS, "each ran beside load"
    for told, second, counted in (("sure at first", first, sure), ("after the trials", again, pairs)):
        apart = [
            (configs[number].model.architecture, name, quiet[number][name], second[number][name])
            for number, name in counted
            if _apart(quiet[number], second[number], name)
        ]
        widths = [one[name + SPREAD] / one[name] for one in chain(quiet, second) for name in THROUGHPUTS]
        print(
            f"{told}: {len(counted) - len(apart)} of {len(counted)} intervals overlap, of ±{median(widths):.1%}; "
            f"apart are {apart}"
        )
        assert len(apart) <= max(_FEW, _APART * len(counted))


@pytest.mark.alone
def test_what_is_measured_beside_load_is_never_sure(tmp_path: Path) -> None:
    spec = bench_spec()
    block, knobs = next(spec.grid())
    config = spec.trial(block, knobs, 0)
    with _load(_ALWAYS):
        found = [_figures(config, tmp_path), _figures(config, tmp_path, again=True)]
    for one in found:
        for name in THROUGHPUTS:
            assert any(doubt.startswith("measured beside other work") for doubt in _doubts(config, one, name))
