"""Trials whose ranks are on two nodes of a Ray cluster, and one that loses a node."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.platform.home import file_digests
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.sweeps import SweepSpec
from tests.platform.clusters import Cluster, Node
from tests.platform.specs import tiny
from tests.platform.stores import ready_home

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

STEPS = 300
DISTURBED = [1]  # stages of ZeRO: each takes a node


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Nodes of one CPU, so that each rank is on one of its own; two are left in the end."""
    with Cluster(nodes=2 + len(DISTURBED)) as started:
        yield started


def trials(cluster: Cluster, home: Path, stages: list[int]) -> list[TrialRecord]:
    """The trials of a sweep over stages of ZeRO, in that order.

    The command runs it: Ray keeps the token of the first cluster that a process has joined.
    """
    spec = tiny(
        name="nodes",
        space=[{"architecture": "window", "window_size": 4, "training.zero_stage": stages}],
        resources={"workers": 2},
        concurrent=1,
        training={"steps": STEPS, "evaluate_every": 100, "gradient_clipping": 0.0},
    )
    file = ready_home(home) / "nodes.yaml"
    file.write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "recallfront", "run", str(file), "--home", str(home)]
    command += ["--address", f"127.0.0.1:{cluster.port}"]
    ran = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = read_sweep(f"sqlite:///{home / 'mlflow.db'}", SweepSpec.model_validate(spec).key).trials
    by_stage = {trial.config["training"]["zero_stage"]: trial for trial in found}
    return [by_stage[stage] for stage in stages]


def outcome(home: Path, trial: TrialRecord) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """Every loss with its step, and the digests of the weights."""
    assert trial.status is Status.FINISHED, trial.failure
    client = open_client(f"sqlite:///{home / 'mlflow.db'}")
    rows = [(point.step, point.value) for point in client.get_metric_history(trial.run_id, "loss")]
    (weights,) = home.glob(f"trials/{trial.trial_key[:16]}-*/model")
    return sorted(rows), file_digests(weights)


def test_trials_on_two_nodes_train_and_one_that_loses_a_node_finds_the_same_bits(
    cluster: Cluster, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed = trials(cluster, whole, [1, 2, 3])
    expected = [outcome(whole, trial) for trial in undisturbed]
    assert not [trial for trial in undisturbed if "attempts" in trial.tags]
    for losses, _ in expected:
        assert [step for step, _ in losses] == list(range(1, STEPS + 1))
        # the stages add up in other orders
        assert [loss for _, loss in losses[:20]] == pytest.approx(
            [loss for _, loss in expected[0][0][:20]], abs=1e-3
        )

    for stage, undisturbed_trial in zip(DISTURBED, expected, strict=False):
        killed = kill_a_node_of_the_trial(cluster, broken)
        (disturbed,) = trials(cluster, broken, [stage])
        killed.join()
        assert int(disturbed.tags["attempts"]) > 1
        assert outcome(broken, disturbed) == undisturbed_trial


def kill_a_node_of_the_trial(cluster: Cluster, home: Path) -> threading.Thread:
    """Once a trial has a checkpoint of both ranks, which are on two nodes, SIGKILL one of these."""

    def ranks() -> list[Node]:
        return [node for node in cluster.nodes if node.runs("RayTrainWorker")]

    def kill() -> None:
        before = time.time()
        wait_for(lambda: saved_after(before, home) and len(ranks()) == 2)
        next(node for node in ranks() if node is not cluster.nodes[0]).kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def saved_after(moment: float, home: Path) -> bool:
    """Whether a checkpoint with the shard of a rank was written since then."""
    try:
        return any(path.stat().st_mtime > moment for path in home.glob("trials/*/checkpoint/**/*zero_*"))
    except FileNotFoundError:  # it is just being replaced
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
