"""The tracking server goes away for a minute while a sweep runs: nothing is lost, nothing is doubled, nobody waits."""

import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from recallfront.platform import run_sweep
from recallfront.platform.records import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from tests.platform.servers import MlflowServer
from tests.platform.specs import tiny_spec

AWAY_SECONDS = 60.0
STEPS = 1500

pytestmark = pytest.mark.slow


def test_a_minute_without_the_server_costs_only_delay(tmp_path: Path) -> None:
    spec = tiny_spec(
        name="outage",
        space=[{"architecture": "window", "window_size": [4]}],
        training={"steps": STEPS, "evaluate_every": 250, "checkpoint_seconds": 20},
        seeds=list(range(10)),
    )
    home = tmp_path / "home"
    with MlflowServer(tmp_path / "server") as server:
        times: dict[str, float] = {}
        outage = threading.Thread(target=_take_away, args=(server, home, times))
        outage.start()
        result = run_sweep(spec, home=home, tracking_uri=server.uri)
        outage.join()
        record = read_sweep(server.uri, spec.key)
        client = open_client(server.uri)
        losses = {
            trial.run_id: [m.step for m in client.get_metric_history(trial.run_id, "loss")]
            for trial in record.trials
        }

    assert times["back"] - times["away"] >= AWAY_SECONDS
    assert result.undelivered == 0
    assert Counter(trial.status for trial in record.trials) == {Status.FINISHED: 10}
    assert all(sorted(steps) == list(range(1, STEPS + 1)) for steps in losses.values())

    # Trials' own clocks: the rate of those that trained without the server beside that of the others.
    ended = {trial.trial_key: trial for trial in result.record.trials}
    during = [t.metrics["train_seconds"] for t in ended.values() if t.start_time > times["away"]]
    before = [t.metrics["train_seconds"] for t in ended.values() if t.start_time <= times["away"]]
    assert len(during) >= 4 and before
    slowdown = statistics.median(during) / statistics.median(before)
    print(f"training seconds without the server over with it: {slowdown:.3f}")
    assert slowdown < 1.5, "had a trial waited for the server, it would have taken several times as long"


def _take_away(server: MlflowServer, home: Path, times: dict[str, float]) -> None:
    """Kill the server when the first trials have ended, and start it again a minute later."""
    deadline = time.monotonic() + 120
    while len(list(home.glob("trials/*/result.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    server.kill()
    times["away"] = time.time()
    time.sleep(AWAY_SECONDS)
    server.start()
    times["back"] = time.time()
