"""The commands of deploy/ in the environment that the image installs: the pages, a cluster, and a sweep on it."""

import os
import re
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recallfront import __version__ as version
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.ledger import read_sweep
from tests.image import install
from tests.platform.clusters import Cluster
from tests.platform.postgres import postgres
from tests.platform.servers import free_port
from tests.platform.specs import tiny
from tests.test_deploy import COMPOSE, MANIFESTS, commands

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a process in the image."""
    folder = tmp_path_factory.mktemp("image")
    variables, told = install(folder)
    assert told.splitlines()[-1] == f"recallfront {version}"
    where = ["python", "-c", "import recallfront; print(recallfront.__file__)"]
    found = subprocess.run(where, cwd=folder, env=variables, capture_output=True, text=True, check=True)
    assert Path(found.stdout).is_relative_to(folder / "environment")
    return variables


@pytest.fixture(scope="module")
def port(image: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of an MLflow server that the command of the manifests has started, on PostgreSQL."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    first, second = [words for words in commands() if words[0] == "mlflow"]
    (store,) = [word.partition("=")[2] for word in first if word.startswith("--backend-store-uri=")]
    found = re.fullmatch(r"(postgresql\+psycopg://(\w+)@)[\w-]+:5432/\2", store)
    assert found is not None
    with postgres(found[2]) as (database, password):
        here = {
            "--backend-store-uri": f"{found[1]}127.0.0.1:{database}/{found[2]}",
            "--host": "127.0.0.1",
            "--port": str(port),
            "--artifacts-destination": str(folder / "artifacts"),
        }
        assert names(first) == names(second) > set(here)
        server = subprocess.Popen(
            ["python", "-m", *replaced(first, here)],
            cwd=folder,
            env=image | {"PGPASSWORD": password},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 120
            while answer(port, "mlflow:5000") is None:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            yield port
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def names(words: list[str]) -> set[str]:
    """The options of a command, each of which is a word with its value."""
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def replaced(words: list[str], here: dict[str, str]) -> list[str]:
    """A command with the values that some of its options have on this machine."""
    pairs = [(word, word.partition("=")[0]) for word in words]
    return [f"{name}={here[name]}" if name in here else word for word, name in pairs]


def answer(port: int, host: str) -> int | None:
    """The status that the pages answer to a browser that names this host; None as long as there is no server."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/recallfront/", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            assert b"recallfront" in found.read()
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_the_server_has_the_pages(port: int) -> None:
    assert answer(port, "mlflow:5000") == 200
    # the pages themselves ask the server by that name, if its store is no SQLite file
    assert answer(port, f"127.0.0.1:{port}") == 200
    assert answer(port, "elsewhere:5000") == 403


@pytest.fixture
def cluster(image: dict[str, str]) -> Iterator[Cluster]:
    """The head and the worker of compose.yaml."""
    cluster = Cluster()
    cluster.environment = image | cluster.environment | {"PATH": image["PATH"]}
    cluster.environment.pop("PYTHONPATH", None)
    try:
        for name in ("head", "worker"):
            command = COMPOSE["services"][name]["command"]
            assert command[:2] == ["ray", "start"] and "--block" in command
            here = {
                "--port": str(cluster.port),
                "--address": f"127.0.0.1:{cluster.port}",
                "--dashboard-host": "127.0.0.1",
                "--dashboard-port": str(cluster.dashboard_port),
                "--metrics-export-port": str(free_port()),
            }
            cluster.join(*replaced(command[2:], here))
        yield cluster
    finally:
        cluster.stop()


def test_the_job_trains_its_sweep_on_the_worker(cluster: Cluster, port: int, tmp_path: Path) -> None:
    study, server = tmp_path / "study.yaml", f"http://127.0.0.1:{port}"
    study.write_text(yaml.safe_dump(tiny(name="deployed")))
    (job,) = [document for document in MANIFESTS.values() if document["kind"] == "RayJob"]
    here = {"quickstart": study, "/shared/home": tmp_path / "home", "http://mlflow:5000": server}
    entrypoint = [str(here.get(word, word)) for word in shlex.split(job["spec"]["entrypoint"])]
    assert {str(word) for word in here.values()} < set(entrypoint)
    command = ["python", "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.dashboard, "--"]
    done = subprocess.run(
        [*command, *entrypoint], env=cluster.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    trials = read_sweep(server, "deployed").trials
    assert trials and {trial.status for trial in trials} == {Status.FINISHED}
