"""What Prometheus is told of a sweep; that it arrives there is tested on a cluster."""

import time
from types import SimpleNamespace
from typing import Any

from recallfront.platform.sweep.gauges import GAUGES, Gauges


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
