"""A sweep on nodes that share no folder, with its home on S3: a node, the store and the driver are lost on the way."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pyarrow.fs import S3FileSystem, copy_files

from recallfront.platform.cluster.jobs import jobs, submit
from recallfront.platform.home import home_folder, vault
from recallfront.platform.home.data import prepared
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec, load_spec
from tests.platform.clusters import Cluster, Node
from tests.platform.home.s3 import BUCKET, ENVIRONMENT, S3Server
from tests.platform.planted import holding
from tests.platform.servers import MlflowServer
from tests.platform.specs import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    # DeepSpeed's ZeRO uses what torch deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

HOME = f"s3://{BUCKET}/cluster"
# which take several times as long as a process to start: Tune starts one at a time, and gives it a trial if one is left
STEPS = 5000
# seconds that S3 is away, and the share of requests that fail; `make attack` takes a minute and a tenth
OUTAGE = float(os.environ.get("RECALLFRONT_OUTAGE", "5"))
FAILING = float(os.environ.get("RECALLFRONT_FAILING", "0.02"))


def test_a_node_the_store_and_the_driver_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "here"))
    vault._transport.cache_clear()
    study = tmp_path / "three-nodes.yaml"
    training = {"steps": STEPS, "evaluate_every": 200, "checkpoint_seconds": 0}
    space = [{"architecture": "window", "window_size": 4}]
    study.write_text(
        yaml.safe_dump(tiny(name="three-nodes", space=space, training=training, seeds=[0, 1, 2]))
    )
    spec = load_spec(str(study))
    with S3Server(failing=FAILING) as server, MlflowServer(tmp_path / "mlflow") as tracking:
        with Cluster(nodes=3) as cluster:
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token_file))
            lose_all_but_the_trials(cluster, server, study, tracking.uri, tmp_path)
            states = [path for path in cluster.folder.glob("*-state/*/trials/*")]
            hold_no_secrets(cluster, server, tmp_path)
        assert server.failed > 0
        undisturbed = losses_alone(spec)
        trials = read_sweep(tracking.uri, spec.key).trials
        assert Counter(trial.status for trial in trials) == {Status.FINISHED: 3}
        client = open_client(tracking.uri)
        for trial in trials:
            found = sorted((m.step, m.value) for m in client.get_metric_history(trial.run_id, "loss"))
            assert found == undisturbed[trial.trial_key], "each step is there once, as of a still run"
    assert len(trials) == len(undisturbed) and len({path.parents[2] for path in states}) >= 2
    vault._transport.cache_clear()


def lose_all_but_the_trials(cluster: Cluster, server: S3Server, study: Path, uri: str, folder: Path) -> None:
    """Run the sweep as a job: a node is killed, the store is away, and a driver elsewhere follows that of the head."""
    job, _ = submit(str(study), address=cluster.dashboard, tracking_uri=uri, home=HOME)
    head, *others = cluster.nodes
    train: list[Node] = []

    def are_under_way() -> bool:
        # Ray names a process after the method that it runs, and after its class between two methods alone
        train[:] = [node for node in others if node.runs("ResourceTrainable.train")]
        return bool(train) and bool(checkpoints())

    wait_for(are_under_way, cluster, job)
    train[0].kill()
    server.away.set()
    time.sleep(OUTAGE)
    server.away.clear()
    before = checkpoints()
    wait_for(lambda: bool(checkpoints() - before), cluster, job)
    # as with its machine: nothing is told to anybody
    (first,) = drivers(head)
    first.kill()
    arguments = ["run", str(study), "--address", f"127.0.0.1:{cluster.port}", "--home", HOME]
    arguments += ["--tracking-uri", uri]
    where = {"RAY_AUTH_TOKEN_PATH": str(cluster.token_file), "RECALLFRONT_STATE": str(folder / "b")}
    with driver(arguments, where, folder / "b.log") as second:
        assert second.wait(480) == 0, (folder / "b.log").read_text()[-3000:]


def hold_no_secrets(cluster: Cluster, server: S3Server, folder: Path) -> None:
    """The bucket, what the nodes keep, Ray's logs, the store, and what both drivers told."""
    server.failing = 0.0
    bucket = S3FileSystem(endpoint_override=server.endpoint, region=ENVIRONMENT["AWS_REGION"])
    copy_files(BUCKET, str(folder / "bucket"), source_filesystem=bucket)
    secrets = (ENVIRONMENT["AWS_ACCESS_KEY_ID"], ENVIRONMENT["AWS_SECRET_ACCESS_KEY"], cluster.token)
    assert holding(folder / "bucket", *secrets) == holding(folder, *secrets) == []
    assert set(holding(cluster.folder, *secrets)) <= {cluster.token_file}


def drivers(head: Node) -> list[psutil.Process]:
    """The drivers of jobs, which run on the head: not the shells that started them."""
    found = []
    for process in head.processes():
        with suppress(psutil.Error):
            if process.cmdline()[1:4] == ["-m", "recallfront", "run"]:
                found.append(process)
    return found


def checkpoints() -> set[str]:
    """The whole checkpoints in the bucket."""
    found = vault.kept_files(home_folder(HOME) / "trials")
    return {name for name in found if name.endswith("/manifest.json") and "/checkpoint/" in name}


def losses_alone(spec: SweepSpec) -> dict[str, list[tuple[int, float]]]:
    """The losses of every trial of the sweep when it is run in this process, by the trial's key."""
    home = home_folder(HOME)
    path, digest = prepared(spec.task, home)
    place = replace(
        Workplace(home=home, data=path, data_digest=digest, code_version=code_version()), scratch="still"
    )
    found = {}
    for block, knobs in spec.grid():
        for seed in spec.seeds:
            trial = spec.trial(block, knobs, seed)
            reports = list(run_trial(trial, place))
            rows = [row for report in reports for row in report.rows if row[0] == "loss"]
            found[trial.key] = sorted((step, value) for _, value, step, _ in rows)
    return found


@contextmanager
def driver(
    arguments: list[str], environment: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as output:
        process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-m", "recallfront", *arguments],
            env=inherited | environment,
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], cluster: Cluster, job: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        (details,) = jobs(cluster.dashboard, job)
        assert not details.status.is_terminal(), f"the job has ended: {details.message}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.2)
