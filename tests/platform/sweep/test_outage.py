"""The tracking server goes away while a sweep runs: nothing is lost, nothing is doubled, nobody waits."""

import os
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from recallfront.platform import run_sweep
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from tests.platform.servers import MlflowServer
from tests.platform.specs import tiny_spec
from tests.platform.sweeps import wait_for

# at least; `make attack` takes it away for a minute
AWAY_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "4"))
TRIALS, STEPS, EVERY = 11, 600, 100
# one that had begun before, then those that are compared, then one whose end shows that theirs were recorded
ENDED_MEANWHILE = 1 + 5 + 1

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_an_outage_of_the_server_costs_only_delay(tmp_path: Path) -> None:
    spec = tiny_spec(
        name="outage",
        space=[{"architecture": "window", "window_size": [4]}],
        training={"steps": STEPS, "evaluate_every": EVERY, "checkpoint_seconds": 5},
        seeds=list(range(TRIALS)),
        concurrent=1,
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
        steps = {
            (trial.run_id, metric): [m.step for m in client.get_metric_history(trial.run_id, metric)]
            for trial in record.trials
            for metric in trial.metrics
        }

    assert times["back"] - times["away"] >= AWAY_SECONDS
    assert result.undelivered == 0
    assert Counter(trial.status for trial in record.trials) == {Status.FINISHED: TRIALS}
    every, evaluated, once = list(range(1, STEPS + 1)), list(range(EVERY, STEPS + 1, EVERY)), [STEPS]
    expected = {
        "loss": every,
        "learning_rate": every,
        "validation_loss": evaluated,
        "validation_recall": evaluated,
        "validation_recall_at_16": evaluated,
    }
    for (_, metric), found in steps.items():
        assert sorted(found) == expected.get(metric, once), metric

    # Trials' own clocks: the rate of those that trained without the server beside that of the others.
    during: list[float] = []
    others: list[float] = []
    for trial in result.record.trials:
        away = times["away"] < trial.start_time and (trial.end_time or 0.0) < times["back"]
        (during if away else others).append(trial.metrics["train_seconds"])
    assert len(during) >= 5 and others
    slowdown = statistics.median(during) / statistics.median(others)
    print(f"training seconds without the server over with it: {slowdown:.3f}")
    assert slowdown < 3, "had a trial waited for the server, it would have taken several times as long"


def _take_away(server: MlflowServer, home: Path, times: dict[str, float]) -> None:
    """Kill the server when the first trials have ended, and start it again when enough others have."""
    _wait_for_results(home, 2)
    server.kill()
    times["away"] = time.time()
    began = _results(home)
    time.sleep(AWAY_SECONDS)
    _wait_for_results(home, began + ENDED_MEANWHILE)
    server.start()
    times["back"] = time.time()


def _results(home: Path) -> int:
    return len(list(home.glob("trials/*/result.json")))


def _wait_for_results(home: Path, count: int) -> None:
    wait_for(lambda: _results(home) >= min(count, TRIALS), pause=0.05)
