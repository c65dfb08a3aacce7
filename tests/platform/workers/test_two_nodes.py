"""Trials whose ranks are on two nodes of a Ray cluster, and some that lose a node: in a shared folder, and on S3."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.platform.home import file_digests, home_folder, vault
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.sweeps import SweepSpec
from tests.platform.clusters import Cluster, Node
from tests.platform.home.s3 import BUCKET, S3Server
from tests.platform.specs import tiny
from tests.platform.stores import ready_store
from tests.platform.sweeps import steps_in

pytestmark = [pytest.mark.slow, pytest.mark.alone]

STEPS, EVERY = 600, 50  # of a trial, and between its evaluations, each of which is saved
ON_S3 = f"s3://{BUCKET}/nodes"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Nodes of one CPU, so that each rank is on one of its own; with S3, which they find by the environment."""
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "here"))
    vault._transport.cache_clear()
    with S3Server(), Cluster(nodes=5) as started:
        yield started
    vault._transport.cache_clear()


def trials(cluster: Cluster, folder: Path, home: str, stages: list[int]) -> list[TrialRecord]:
    """The trials of a sweep over stages of ZeRO, in that order; its MLflow store is in `folder`.

    The command runs it: Ray keeps the token of the first cluster that a process has joined.
    """
    spec = tiny(
        name="nodes",
        space=[{"architecture": "window", "window_size": 4, "training.zero_stage": stages}],
        resources={"workers": 2},
        concurrent=1,
        training={"steps": STEPS, "evaluate_every": EVERY, "checkpoint_seconds": 0.0},
    )
    uri, file = ready_store(folder), folder / "nodes.yaml"
    file.write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "recallfront", "run", str(file), "--home", home, "--tracking-uri", uri]
    command += ["--address", f"127.0.0.1:{cluster.port}"]
    ran = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = read_sweep(uri, SweepSpec.model_validate(spec).key).trials
    by_stage = {trial.config["training"]["zero_stage"]: trial for trial in found}
    return [by_stage[stage] for stage in stages]


def outcome(folder: Path, home: str, trial: TrialRecord) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """Every loss with its step, and the digests of the weights."""
    assert trial.status is Status.FINISHED, trial.failure
    client = open_client(f"sqlite:///{folder / 'mlflow.db'}")
    rows = [(point.step, point.value) for point in client.get_metric_history(trial.run_id, "loss")]
    place = home_folder(home) / "trials"
    names = [path.name for path in place.glob("*")] + vault.kept_folders(place)
    (own,) = {name for name in names if name.startswith(trial.trial_key[:16])}
    vault.fetch_folder(place / own / "model")
    return sorted(rows), file_digests(place / own / "model")


def test_trials_on_two_nodes_train_and_those_that_lose_a_node_find_the_same_bits(
    cluster: Cluster, tmp_path: Path
) -> None:
    whole = tmp_path / "undisturbed"
    undisturbed = trials(cluster, whole, str(whole), [1, 2, 3])
    expected = [outcome(whole, str(whole), trial) for trial in undisturbed]
    assert not [trial for trial in undisturbed if "attempts" in trial.tags]
    for losses, _ in expected:
        assert [step for step, _ in losses] == list(range(1, STEPS + 1))
        # the stages add up in other orders
        assert [loss for _, loss in losses[:20]] == pytest.approx(
            [loss for _, loss in expected[0][0][:20]], abs=1e-3
        )

    for stage, home in ((1, str(tmp_path / "shared")), (2, f"{ON_S3}-2"), (3, f"{ON_S3}-3")):
        folder = tmp_path / f"stage-{stage}"
        killed = kill_a_node_of_the_trial(cluster, home)
        (disturbed,) = trials(cluster, folder, home, [stage])
        killed.join()
        assert int(disturbed.tags["attempts"]) > 1
        # MLflow has a repeated step once, so that only the log tells a trial that went on from one that began again
        assert evaluations(home).count(EVERY) == 1
        assert outcome(folder, home, disturbed) == expected[stage - 1]


def kill_a_node_of_the_trial(cluster: Cluster, home: str) -> threading.Thread:
    """Once a trial has a checkpoint beyond its first, of both ranks, which are on two nodes, SIGKILL one of these."""

    def ranks() -> list[Node]:
        return [node for node in cluster.nodes if node.runs("RayTrainWorker")]

    def kill() -> None:
        wait_for(
            lambda: max(evaluations(home), default=0) >= 4 * EVERY and is_saved(home) and len(ranks()) == 2
        )
        next(node for node in ranks() if node is not cluster.nodes[0]).kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def evaluations(home: str) -> list[int]:
    """The steps that the log of the home's only sweep has figures of, doubled ones included."""
    return [step for log in home_folder(home).glob("sweeps/*.log") for step in steps_in(log.read_text())]


def is_saved(home: str) -> bool:
    """Whether a checkpoint with the shard of the second rank is there, whole."""
    place = home_folder(home) / "trials"
    try:
        names = [str(path) for path in place.glob("*/checkpoint/**/*")]
    except FileNotFoundError:  # it is just being replaced
        return False
    kept = list(vault.kept_files(place))
    shard = any("/checkpoint" in name and "zero_pp_rank_1" in name for name in [*names, *kept])
    return shard and (not kept or any(name.endswith("/manifest.json") for name in kept))


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
