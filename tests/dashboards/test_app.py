"""The pages, served by a real `mlflow server` from a real SQLite store."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recallfront.dashboards.serving import serve, server_command
from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import TAG, SweepRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import config_tags
from recallfront.platform.tracking.places import artifact_location
from tests.platform.servers import free_port
from tests.platform.stores import ready_store

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
MakeRecord = Callable[..., SweepRecord]
OTHERS = (Status.DIVERGED, Status.ERROR, Status.PRUNED, Status.RUNNING)
EVIL = "</script><img src=x onerror=alert(1)>"


def write(record: SweepRecord, uri: str, state: str) -> str:
    """Write a record into a store as a sweep's driver does; returns its run's id."""
    from mlflow.entities import Metric

    client = open_client(uri)
    experiment = client.create_experiment(record.name, artifact_location(uri, record.name))
    tags = {"kind": "sweep", "sweep_key": record.sweep_key, "status": state}
    parent = client.create_run(experiment, tags={TAG + key: value for key, value in tags.items()}).info.run_id
    if record.spec:
        client.log_text(parent, json.dumps(record.spec), "spec.json")
    for trial in record.trials:
        start = int(1000 * trial.start_time)
        tags = {"kind": "trial", "trial_key": trial.trial_key, "status": trial.status.value}
        tags |= {"failure": trial.failure} if trial.failure else {}
        own = {TAG + key: value for key, value in tags.items()} | config_tags(trial.config)
        run = client.create_run(experiment, start, {"mlflow.parentRunId": parent} | own).info.run_id
        client.log_batch(run, [Metric(name, value, start, 0) for name, value in trial.metrics.items()])
        if trial.end_time is not None:
            client.set_terminated(run, "FINISHED", int(1000 * trial.end_time))
    if state != "running":
        client.set_terminated(parent)
    return str(parent)


class Served:
    """`recallfront ui` in a process of its own, over one store with three sweeps."""

    def __init__(self, home: Path, sweeps: dict[str, str]) -> None:
        self.sweeps, port = sweeps, free_port()
        code = "import sys; from pathlib import Path; from recallfront.dashboards.serving import serve; "
        code += (
            f"sys.exit(serve(Path({str(home)!r}), port={port}, tell=lambda line: print(line, flush=True)))"
        )
        self.log = open(home / "ui.log", "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        self.told = next((line for line in self.process.stdout if line.startswith("recallfront:")), "")
        self.uri = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.uri + path, timeout=60) as answer:
            body: bytes = answer.read()
        return body.decode()

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return status


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_record: MakeRecord) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    uri = ready_store(home)
    running = make_record(17, OTHERS, name="running-study", sweep_key="beef".ljust(64, "0"))
    for trial in running.trials[:2]:
        trial.config["model"]["window_size"] = EVIL
    sweeps = {
        "finished": write(make_record(), uri, "finished"),
        "running": write(running, uri, "running"),
        "new": write(make_record(0, name="new-study", spec={}), uri, "running"),
    }
    found = Served(home, sweeps)
    yield found
    assert found.stop(signal.SIGINT) == 0


def test_it_says_where_the_pages_are(served: Served) -> None:
    assert f"{served.uri}/recallfront/" in served.told


def test_every_sweep_is_listed(served: Served) -> None:
    page = served.get("/recallfront/")
    for name in ("finished", "running"):
        assert f'href="/recallfront/sweeps/{served.sweeps[name]}"' in page
    assert "<b>24</b> of 24 finished" in page and "5,296" in page and "0.993" in page
    assert "running-study" in page and "<b>2</b> failed" in page
    assert "new-study" in page and "no specification in the store yet" in page
    assert served.get("/recallfront") == page


def test_a_sweeps_page_shows_its_front_trials_and_commands(served: Served) -> None:
    page = served.get(f"/recallfront/sweeps/{served.sweeps['finished']}")
    assert 'data-running="no"' in page
    assert "griffin · window_size 16" in page and '<span class="tag">knee</span>' in page
    assert page.count("/#/experiments/") == 1 + 12 + 24  # the sweep's run, configurations, trials
    assert f"recallfront pick 5eed00000000 --knee --out model --tracking-uri {served.uri}" in page
    inline = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert inline is not None
    figures = json.loads(inline[1])
    assert {trace["name"] for trace in figures["front"]["data"]} >= {"front", "knee", "hawk", "based"}
    assert len(figures["history"]["data"][0]["y"]) == 24


def test_a_running_sweeps_page_is_kept_fresh(served: Served) -> None:
    path = f"/recallfront/sweeps/{served.sweeps['running']}"
    assert 'data-running="yes"' in served.get(path)
    live = json.loads(served.get(path + "/live"))
    assert live["running"] is True
    assert set(live["figures"]) == {"front", "history"}
    assert "out of memory" not in live["html"] and "diverged" in live["html"]
    assert "loss is nan at step 120" in live["html"]


def test_what_a_trial_says_stays_text(served: Served) -> None:
    path = f"/recallfront/sweeps/{served.sweeps['running']}"
    page, live = served.get(path), json.loads(served.get(path + "/live"))["html"]
    for html in (page, live):
        assert "<img" not in html and "<script>alert" not in html
        assert "&lt;script&gt;alert" in html and "&lt;img src=x" in html
    assert page.count("</script>") == 3  # the figures, the page's own script, and Plotly's


def test_pages_load_nothing_from_elsewhere(served: Served) -> None:
    with urllib.request.urlopen(served.uri + "/recallfront/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "http" not in policy
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for name, start in (("style.css", ":root"), ("page.js", "//")):
        assert served.get(f"/recallfront/static/{name}").startswith(start)
    request = urllib.request.Request(served.uri + "/recallfront/static/plotly.js")
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Encoding"] == "gzip" and len(answer.read()) < 2_500_000


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/recallfront/sweeps/0123456789abcdef", "there is no sweep &#39;0123456789abcdef&#39;"),
        ("/recallfront/sweeps/%3Cb%3E", "there is no sweep &#39;&lt;b&gt;&#39;"),
        ("/recallfront/static/..%2Fapp.py", ""),
        ("/recallfront/static/base.html", ""),
    ],
)
def test_what_is_not_there_is_said(served: Served, path: str, message: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        served.get(path)
    with caught.value:
        assert caught.value.code == 404
        assert message in caught.value.read().decode()


def test_mlflow_itself_is_served_beside_the_pages(served: Served) -> None:
    assert '<div id="root"' in served.get("/")
    assert open_client(served.uri).get_run(served.sweeps["finished"]).info.status == "FINISHED"


def test_a_sweep_written_through_the_server_is_shown(served: Served, make_record: MakeRecord) -> None:
    """Its artifacts are the server's, under `mlflow-artifacts:`."""
    run_id = write(make_record(5, name="remote"), served.uri, "finished")
    assert open_client(served.uri).get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    assert "on the front" in served.get(f"/recallfront/sweeps/{run_id}")


def test_a_port_that_is_taken_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127.0.0.1 port {port} \(Address already in use\): .* --port"):
            serve(tmp_path, port=port)
    with pytest.raises(UsageError, match="port 70000: must be from 1 to 65535"):
        serve(tmp_path, port=70000)
    with pytest.raises(UsageError, match="cannot listen on no.such.host.invalid"):
        serve(tmp_path, host="no.such.host.invalid")
    with pytest.raises(UsageError, match="is a server already: open it in a browser"):
        serve(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="there is no MLflow store at"):
        serve(tmp_path / "nowhere", port=free_port())
    assert not (tmp_path / "nowhere").exists()


def test_it_listens_on_loopback_alone_unless_told(tmp_path: Path) -> None:
    command = server_command("sqlite:///x.db", tmp_path, host="127.0.0.1", port=5000)
    assert command[1:6] == ["-m", "mlflow", "server", "--app-name", "recallfront"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--artifacts-destination") + 1] == str(tmp_path / "mlartifacts")


def test_a_stop_ends_the_server_and_all_of_its_processes(tmp_path: Path) -> None:
    ready_store(tmp_path)
    found = Served(tmp_path, {})
    children = _descendants(found.process.pid)
    assert children
    assert found.stop(signal.SIGTERM) == 0
    deadline = time.monotonic() + 10
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if _alive(child)]


def _descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
