"""What Prometheus is told of a sweep; that it arrives there is tested on a cluster."""

import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest

from recallfront.platform.sweep import gauges as gauges_module
from recallfront.platform.sweep.gauges import GAUGES, Gauges
from tests.platform.sweeps import wait_for


def test_a_sweep_s_metrics_are_its_figures_and_its_speed_since_they_were_told_before() -> None:
    steps = [100]
    sweep: Any = SimpleNamespace(
        steps=lambda: steps[0],
        counts=lambda: {"finished": 2, "running": 1},
        growth=lambda: SimpleNamespace(hypervolume=12.5),
    )
    began = time.monotonic()
    gauges = Gauges(sweep, lambda: 7)
    time.sleep(0.05)
    steps[0] += 30
    told = gauges.values()
    seconds = time.monotonic() - began
    assert {name for name, _, _ in told} == set(GAUGES)
    assert [row for row in told if row[0] == "recallfront_trials"] == [
        ("recallfront_trials", 2.0, {"status": "finished"}),
        ("recallfront_trials", 1.0, {"status": "running"}),
    ]
    plain = {name: value for name, value, tags in told if not tags}
    assert plain["recallfront_hypervolume"] == 12.5 and plain["recallfront_spool_backlog"] == 7.0
    assert 30 / seconds <= plain["recallfront_steps_per_second"] <= 30 / 0.05
    assert dict((n, v) for n, v, t in gauges.values() if not t)["recallfront_steps_per_second"] == 0.0


def test_of_a_sweep_that_is_over_nothing_is_said_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was told last stays, also while a suite goes on with its next sweep."""
    told: dict[tuple[str, str | None], float] = {}

    class Gauge:
        def __init__(self, name: str, about: str, keys: tuple[str, ...]) -> None:
            self._name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            told[self._name, tags.get("status")] = value

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr(gauges_module, "_TELL_SECONDS", 0.01)
    steps = itertools.count(step=100)
    sweep: Any = SimpleNamespace(
        spec=SimpleNamespace(name="mine", key="ab" * 32),
        steps=lambda: next(steps),
        counts=lambda: {"finished": 2, "running": 1},
        growth=lambda: SimpleNamespace(hypervolume=12.5),
    )
    with Gauges(sweep, lambda: 0):
        wait_for(lambda: told.get(("recallfront_steps_per_second", None), 0.0) > 0)
    assert told["recallfront_steps_per_second", None] == 0.0
    assert told["recallfront_trials", "running"] == 0.0 and told["recallfront_trials", "finished"] == 2.0
