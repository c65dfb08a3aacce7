"""Sweeps on a Ray cluster of two nodes: sent as a job, joined again, and a node lost while trials run on it."""

import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobSubmissionClient

from recallfront.platform.results.status import COUNTED, Status
from recallfront.platform.sweep.gauges import GAUGES
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.sweeps import load_spec
from tests.platform.clusters import Cluster
from tests.platform.planted import MARK, SECRETS, holding
from tests.platform.servers import MlflowServer, free_port
from tests.platform.specs import tiny
from tests.platform.sweeps import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# Ray's own token is real
PLANTED = {name: value for name, value in SECRETS.items() if name != "RAY_AUTH_TOKEN"}
# which take several times as long as a process to start: Tune starts one at a time, and gives it a trial if one is left
STEPS = 6000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(nodes=2)
    cluster.environment |= PLANTED
    with cluster as started:
        yield started


@pytest.fixture
def study(tmp_path: Path) -> Path:
    spec = tiny(
        name="two-nodes",
        space=[{"architecture": "window", "window_size": 4}],
        training={"steps": STEPS, "evaluate_every": 200},
        seeds=[0, 1, 2],
    )
    path = tmp_path / "two-nodes.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def recallfront(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "recallfront", *arguments],
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def test_a_lost_or_wrong_token_is_explained_in_one_sentence(
    cluster: Cluster, study: Path, tmp_path: Path
) -> None:
    send = ("submit", str(study), "--address", cluster.dashboard, "--tracking-uri", "http://127.0.0.1:1")
    nowhere = str(tmp_path / "nowhere")
    missing = recallfront(*send, HOME=str(tmp_path))
    assert_refused(
        missing, "asks for a token, and this machine has none", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"
    )
    assert_refused(recallfront(*send, RAY_AUTH_TOKEN="0" * 64), "refuses the token of RAY_AUTH_TOKEN")
    assert_refused(recallfront(*send, RAY_AUTH_TOKEN_PATH=nowhere), "cannot be read", nowhere)
    jobs = recallfront("status", "--address", cluster.dashboard, HOME=str(tmp_path))
    assert_refused(jobs, "asks for a token")


def test_the_default_place_of_the_token_is_looked_at(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(cluster.token_file.read_text() + "\n")
    answered = recallfront("status", "--address", cluster.dashboard, HOME=str(tmp_path))
    assert answered.returncode == 0, answered.stderr


def test_a_cluster_is_joined_with_the_token_that_is_found(cluster: Cluster, tmp_path: Path) -> None:
    code = f"""
from recallfront.platform.cluster.connection import ray_cluster
from recallfront.platform.errors import UsageError
try:
    with ray_cluster("127.0.0.1:{cluster.port}"):
        import ray
        print(ray.cluster_resources()["CPU"], "CPUs")
except UsageError as error:
    print(error)
"""
    answers = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=clean_environment() | more,
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout
        for more in ({"RAY_AUTH_TOKEN_PATH": str(cluster.token_file)}, {"HOME": str(tmp_path)})
    ]
    assert answers[0] == "2.0 CPUs\n"
    assert "it may ask for a token, and this machine has none: set RAY_AUTH_TOKEN" in answers[1]


def test_an_address_that_does_not_answer_is_refused_at_once(study: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says anything
        for port, why in ((free_port(), "refused"), (silent.getsockname()[1], "no answer")):
            address = f"http://127.0.0.1:{port}"
            for command in (
                ("submit", str(study), "--address", address, "--tracking-uri", "http://127.0.0.1:1"),
                ("status", "--address", address),
            ):
                start = time.monotonic()
                assert_refused(recallfront(*command), "no Ray dashboard answers there", why)
                # most of it is Python's start on a busy machine
                assert time.monotonic() - start < 90
    assert_refused(recallfront("status", "--address", "127.0.0.1:8265"), "http://HEAD:8265")
    send = ("submit", str(study), "--address", "http://127.0.0.1:1", "--tracking-uri")
    assert_refused(recallfront(*send, "sqlite:///here.db"), "MLflow server that the cluster can reach")
    assert_refused(
        recallfront(*send, "http://127.0.0.1:2", "--home", "outputs"), "absolute path", "'outputs'"
    )


def test_a_node_is_killed_and_the_sweep_finishes(cluster: Cluster, study: Path, tmp_path: Path) -> None:
    token = {"RAY_AUTH_TOKEN_PATH": str(cluster.token_file), **PLANTED}
    home, spec = tmp_path / "home", load_spec(str(study))
    with MlflowServer(tmp_path / "server") as server:
        send = ["submit", str(study), "--address", cluster.dashboard, "--tracking-uri", server.uri]
        send += ["--home", str(home)]
        job, command = submit_and_leave(send, token)
        killed: list[str] = []
        killer = threading.Thread(target=kill_node_with_a_trial, args=(cluster, home, killed), daemon=True)
        killer.start()

        again = recallfront("submit", *send[1:], "--no-follow", **token)
        assert again.returncode == 0 and job in again.stdout, "a sweep that runs is not sent twice"
        assert command in again.stdout

        statuses = {"recallfront_trials": set(COUNTED)}
        wait_for(
            lambda: metrics_of(cluster) == {name: statuses.get(name, set()) for name in GAUGES}, pause=0.5
        )
        joined = recallfront(*shlex.split(command)[1:], **token)
        killer.join()
        assert joined.returncode == 0, joined.stdout + joined.stderr
        assert f"job {job}: succeeded" in joined.stdout
        assert "Traceback" not in joined.stdout

        listed = recallfront("status", "--address", cluster.dashboard, COLUMNS="200", **token)
        assert job in listed.stdout and "succeeded" in listed.stdout and "two-nodes" in listed.stdout
        unknown = recallfront("status", "no-such-job", "--address", cluster.dashboard, **token)
        assert_refused(unknown, "no-such-job", job)

        trials = read_sweep(server.uri, spec.key).trials
        client = open_client(server.uri)
        steps = [[m.step for m in client.get_metric_history(t.run_id, "loss")] for t in trials]

    assert killed, "the node was to be killed while a trial ran on it"
    assert Counter(trial.status for trial in trials) == {Status.FINISHED: 3}
    assert len({trial.trial_key for trial in trials}) == 3, "no run is doubled"
    assert all(sorted(found) == list(range(1, STEPS + 1)) for found in steps), "every step is there once"
    attempts = [trial.tags.get("attempts") for trial in trials]
    # a third, if Ray puts the second on the dead node before it knows
    assert {"2", "3"} & set(attempts), f"the lost trial was retried, and that is recorded: {attempts}"
    print(f"attempts: {attempts}")

    jobs = JobSubmissionClient(
        cluster.dashboard, headers={"Authorization": f"Bearer {cluster.token}"}
    ).list_jobs()
    assert jobs and not [job for job in map(str, jobs) if MARK in job or cluster.token in job]
    for folder in (home, server.folder, cluster.folder):
        assert set(holding(folder, cluster.token)) <= {cluster.token_file}


def submit_and_leave(arguments: list[str], environment: dict[str, str]) -> tuple[str, str]:
    """Send a sweep, follow its log for a moment, and leave by Ctrl-C -> the job's id, and how to join it again."""
    with subprocess.Popen(
        # a shell's background job ignores SIGINT, and hands that on
        ["env", "--default-signal=INT", sys.executable, "-u", "-m", "recallfront", *arguments],
        env=clean_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("submitted "), first + process.stdout.read()
        assert any("sweep two-nodes" in line for line in process.stdout), "the job's log is followed"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(300) == 0, rest
        command = first.partition("join again with: ")[2].strip()
        assert f"left the log; the job continues: {command}\n" in rest
    return first.split()[1].rstrip(";"), command


def metrics_of(cluster: Cluster) -> dict[str, set[str]]:
    """The metrics of sweeps that nodes tell Prometheus, each with the values of its label `status`."""
    found: dict[str, set[str]] = {}
    for port in cluster.metrics_ports:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer,
        ):
            for line in answer.read().decode().splitlines():
                if line.startswith("ray_recallfront_") and 'sweep="two-nodes"' in line:
                    name = line.partition("{")[0].removeprefix("ray_")
                    found.setdefault(name, set()).update(re.findall(r'[{,]status="([^"]*)"', line))
    return found


def kill_node_with_a_trial(cluster: Cluster, home: Path, killed: list[str]) -> None:
    """SIGKILL the node that is not the head as soon as a trial has a checkpoint there."""
    node = cluster.nodes[1]
    wait_for(lambda: node.runs("TrialActor") or node.runs("ResourceTrainable"), pause=0.1)
    wait_for(lambda: len(list(home.glob("trials/*/checkpoint"))) >= 2)  # one trial a node runs
    node.kill()
    killed.append("killed")


def assert_refused(answer: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2 and one sentence that has these parts."""
    assert answer.returncode == 2, answer.stdout + answer.stderr
    lines = [line for line in answer.stderr.splitlines() if line.startswith("recallfront: ")]
    assert len(lines) == 1 and "Traceback" not in answer.stderr, answer.stderr
    assert all(part in lines[0] for part in parts), lines[0]
