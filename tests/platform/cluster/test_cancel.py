"""`recallfront cancel` of a sweep on a cluster: all ends in time, nothing stays, and the sweep can be resumed."""

import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from recallfront.platform.sweep.cancel import cancel
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from tests.platform.cluster.endless import ACTOR, RANK, Endless, endless, processes
from tests.platform.clusters import Cluster
from tests.platform.servers import MlflowServer
from tests.platform.sweeps import steps_in, times_slower, wait_for

# nothing of another Ray may come or go in /dev/shm meanwhile
pytestmark = [pytest.mark.slow, pytest.mark.alone]

SECONDS = 15.0  # for everything to be gone, on a machine that does nothing else


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that trials have no place on, and two nodes of one CPU."""
    with Cluster(nodes=3, head_cpus=0) as started:
        yield started


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_that_joined_a_cluster_is_cancelled(cluster: Cluster, workers: int, tmp_path: Path) -> None:
    sweep = Endless(endless(resources={"workers": workers}), tmp_path)
    is_cancelled_and_resumed(
        cluster, sweep, lambda: sweep.running(cluster), lambda: cancel(sweep.key, home=tmp_path)
    )


def test_a_sweep_that_is_a_job_is_cancelled(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token_file))
    monkeypatch.setenv("RECALLFRONT_USER", "ada")
    with MlflowServer(tmp_path / "server") as server:
        sweep = Endless(endless(resources={"workers": 2}), tmp_path, server.uri)
        is_cancelled_and_resumed(
            cluster,
            sweep,
            lambda: sweep.submitted(cluster),
            lambda: cancel(sweep.job, address=cluster.dashboard),
        )
        record = read_sweep(server.uri, sweep.key)
        runs = [open_client(server.uri).get_run(run) for run in (record.run_id, record.trials[0].run_id)]
    assert [run.data.tags["mlflow.user"] for run in runs] == ["ada"] * 2, "the job's account is the cluster's"


def is_cancelled_and_resumed(
    cluster: Cluster,
    sweep: Endless,
    running: Callable[[], AbstractContextManager[object]],
    cancelling: Callable[[], str],
) -> None:
    """Run a sweep, cancel it, look whether anything is left, and do so again: the trial goes on from where it was."""
    shared, saved = set(os.listdir("/dev/shm")), 0
    for _ in range(2):
        before, slower = everything_on(cluster), times_slower()  # while the sweep does not compute
        with running():
            sweep.trains_beyond(saved)
            assert processes(cluster, ACTOR) and len(processes(cluster, RANK)) in (0, 2)
            began = time.monotonic()
            said = cancelling()
            assert said.startswith("sweep endless ") and "0 finished, 1 unfinished" in said, said
            while left := [name for process, name in everything_on(cluster).items() if process not in before]:
                assert time.monotonic() < began + 10 * SECONDS, f"{said}; still there: {left}"
                time.sleep(0.1)
            if sweep.driver is not None:  # it joined the cluster from outside
                sweep.driver.wait(max(1.0, began + 10 * SECONDS - time.monotonic()))
            took = time.monotonic() - began
        slower = max(slower, times_slower())
        told = f"{said}; gone after {took:.1f} s, on a machine {slower:.1f} times slower than an idle one"
        print(told)
        assert took < SECONDS * slower, told
        wait_for(lambda: not placement_groups(cluster), seconds=60, pause=0.5)
        assert set(os.listdir("/dev/shm")) <= shared
        saved = max(sweep.steps())
    steps = steps_in(sweep.log())
    assert steps == sorted(steps), "it went on from where it was saved"


def everything_on(cluster: Cluster) -> dict[psutil.Process, str]:
    """The processes of the nodes that are of some sweep or job: a worker that waits for the next one is of none."""
    found = {}
    for process in (process for node in cluster.nodes for process in node.processes()):
        with contextlib.suppress(psutil.Error):
            name = " ".join(process.cmdline())
            if "ray::IDLE" not in name and process.status() != psutil.STATUS_ZOMBIE:
                found[process] = name
    return found


def placement_groups(cluster: Cluster) -> list[str]:
    """The states of those that Ray has not removed."""
    request = urllib.request.Request(
        f"{cluster.dashboard}/api/v0/placement_groups", headers={"Authorization": f"Bearer {cluster.token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        groups = json.load(answer)["data"]["result"]["result"]
    assert groups, "those of the sweep are still told of"
    return [group["state"] for group in groups if group["state"] != "REMOVED"]
