"""A second home finds what the first one found: intervals of throughput overlap, on a machine with nothing beside."""

from contextlib import closing
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from recallfront.benchmarks.platform.trials import bench_spec
from recallfront.platform.metrics import SPREAD, THROUGHPUTS
from recallfront.platform.trial.measure import measured, measured_again
from recallfront.platform.trial.quiet import Device
from recallfront.sweeps.trial import MeasurementConfig, TrialConfig

pytestmark = [pytest.mark.attack, pytest.mark.slow]

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


def _figures(config: TrialConfig, home: Path) -> dict[str, Any]:
    """As a sweep finds them: measured, and once more if in doubt."""
    with closing(Device("cpu", home / "locks")) as device:
        where: dict[str, Any] = {"device": device, "folder": home, "code_version": "c"}
        measured(config, **where)
        again = measured_again(config, **where)
    assert again is not None
    return again


@pytest.mark.timeout(0)
def test_the_intervals_of_two_homes_overlap(tmp_path: Path, seconds: float | None) -> None:
    if seconds is None:
        pytest.skip("takes minutes of a quiet machine: make attack")
    spec = bench_spec(*_BLOCKS, width=32, measurement=MeasurementConfig(context_length=128).model_dump())
    configs = [spec.trial(block, knobs, 0) for block, knobs in spec.grid()]
    assert len(configs) == 20
    homes = [[_figures(config, tmp_path / home) for config in configs] for home in ("first", "second")]
    apart = [
        (config.model.architecture, name, one[name], other[name])
        for config, one, other in zip(configs, *homes, strict=True)
        for name in THROUGHPUTS
        if abs(one[name] - other[name]) > one[name + SPREAD] + other[name + SPREAD]
    ]
    pairs = len(configs) * len(THROUGHPUTS)
    widths = [one[name + SPREAD] / one[name] for one in chain(*homes) for name in THROUGHPUTS]
    print(f"{pairs - len(apart)} of {pairs} intervals of ±{median(widths):.1%} overlap; apart are {apart}")
    assert len(apart) <= 0.1 * pairs
