"""The writer when things die: the MLflow server by SIGKILL, and the process that writes."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.servers import MlflowServer
from tests.platform.stores import ready_store

# the warning is MLflow's own
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]

NOW = 1_700_000_000_000
WAIT = 300.0  # seconds; never reached when all is well


def steps_of(uri: str, run_id: str, key: str) -> list[int]:
    found = open_client(uri).get_metric_history(run_id, key)
    assert all(metric.value == metric.step * 0.5 for metric in found)
    return [metric.step for metric in found]


def run_ids(uri: str, experiment: str) -> list[str]:
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else [run.info.run_id for run in client.search_runs([found.experiment_id])]


@pytest.mark.alone
def test_a_killed_server_costs_no_metric_and_no_time(tmp_path: Path) -> None:
    """Three trials log on while the server is away: everything is there once, nothing waits for it."""
    trials, per_second, seconds = 3, 100, 12
    calls: list[float] = []
    with (
        MlflowServer(tmp_path / "server") as server,
        closing(TrackingWriter(server.uri, tmp_path / "s.db")) as writer,
    ):
        keys = [f"trial/{index}" for index in range(trials)]
        begin = time.monotonic()
        killed = restarted = False
        for step in range(per_second * seconds):
            called = time.perf_counter()
            for key in keys:
                # the second: reopened while the server is away
                if step == 0 or (step == 500 and key == keys[-1]):
                    writer.open_run(key, experiment="outage", name=key)
                writer.metrics(
                    key, [("loss", step * 0.5, step, NOW + step), ("rate", step * 0.5, step, NOW + step)]
                )
            calls.append(time.perf_counter() - called)
            if step == 300:
                server.kill()
                killed = True
                writer.open_run("born away", experiment="outage", name="born away")
                writer.metrics("born away", [("loss", 0.0, 0, NOW)])
                assert not writer.flush(0.2) and writer.run_id("born away") is None
            if step == 800:
                server.start()
                restarted = True
            time.sleep(max(0.0, begin + (step + 1) / per_second - time.monotonic()))
        assert killed and restarted
        assert writer.flush(WAIT) and writer.rejected() == 0
        usual, slowest = sorted(calls)[len(calls) * 99 // 100], max(calls)
        print(f"99 of 100 calls within {usual * 1e3:.1f} ms, all within {slowest * 1e3:.1f} ms")
        # the server is away for 5 s, in which the run is opened again; a disk's own pause may be seconds
        assert usual < 0.25 and slowest < 5.0
        assert len(run_ids(server.uri, "outage")) == trials + 1
        for key in keys:
            run_id = writer.run_id(key)
            assert run_id is not None
            for metric in ("loss", "rate"):
                assert steps_of(server.uri, run_id, metric) == list(range(per_second * seconds))


def test_a_server_killed_in_the_middle_of_batches_gets_each_metric_once(tmp_path: Path) -> None:
    """The writer sends as fast as it can while the server dies twice."""
    rows = 60_000
    with (
        MlflowServer(tmp_path / "server") as server,
        closing(TrackingWriter(server.uri, tmp_path / "s.db")) as writer,
    ):
        writer.open_run("busy", experiment="busy", name="busy")
        run_id = writer.run_id("busy", WAIT)
        assert run_id is not None
        for first in range(0, rows, 500):
            writer.metrics(
                "busy", [("loss", step * 0.5, step, NOW + step) for step in range(first, first + 500)]
            )
        for _ in range(2):
            _wait_until_some_are_sent(writer)
            server.kill()
            assert writer.backlog() > 0, "the kill has to come before everything is sent"
            server.start()
        assert writer.flush(WAIT) and writer.rejected() == 0
        assert steps_of(server.uri, run_id, "loss") == list(range(rows))


def _wait_until_some_are_sent(writer: TrackingWriter) -> None:
    """Returns when another of the batches that wait has been sent: the next is on its way."""
    deadline, before = time.monotonic() + WAIT, writer.backlog()
    while writer.backlog() == before:
        assert time.monotonic() < deadline, "nothing is sent"
        time.sleep(0.001)


class Proxy(BaseHTTPRequestHandler):
    """What a load balancer says while the server behind it is away."""

    asked = threading.Semaphore(0)

    def do_GET(self) -> None:
        self.asked.release()
        page = b"<html>no such backend</html>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_proxy_that_answers_for_the_server_costs_nothing(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path / "server")
    with closing(TrackingWriter(server.uri, tmp_path / "s.db")) as writer:
        with HTTPServer(("127.0.0.1", server.port), Proxy) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            writer.open_run("run", experiment="proxy", name="run", params={"p": 1})
            writer.metrics("run", [("loss", 0.0, 0, NOW)])
            assert all(Proxy.asked.acquire(timeout=WAIT) for _ in range(2)), "it tries, and tries again"
            assert not writer.flush(0.2)
            proxy.shutdown()
        assert writer.backlog() == 3 and writer.rejected() == 0
        with server:
            assert writer.flush(WAIT) and writer.rejected() == 0
            run_id = writer.run_id("run")
            assert run_id is not None and steps_of(server.uri, run_id, "loss") == [0]


def test_a_server_without_a_place_for_artifacts_still_gets_the_metrics(tmp_path: Path) -> None:
    """A server that names a folder of its own machine is the commonest mistake of MLflow installations."""
    nowhere = ("--no-serve-artifacts", "--default-artifact-root", "/proc/nowhere")
    with (
        MlflowServer(tmp_path / "server", None, *nowhere) as server,
        closing(TrackingWriter(server.uri, tmp_path / "s.db")) as writer,
    ):
        writer.open_run("run", experiment="nowhere", name="run")
        writer.text("run", "lost", "a.txt")
        writer.metrics("run", [("loss", 0.0, 0, NOW)])
        assert writer.flush(WAIT) and writer.rejected() == 1
        run_id = writer.run_id("run")
        assert run_id is not None and steps_of(server.uri, run_id, "loss") == [0]


@pytest.mark.alone
def test_a_server_that_hangs_does_not_hold_up_the_close(tmp_path: Path) -> None:
    with MlflowServer(tmp_path / "server") as server:
        writer = TrackingWriter(server.uri, tmp_path / "s.db")
        writer.open_run("run", experiment="hang", name="run")
        assert writer.flush(WAIT)
        server.send(signal.SIGSTOP)
        writer.metrics("run", [("loss", 0.0, 0, NOW)])
        start = time.monotonic()
        assert not writer.close(1.0) and time.monotonic() - start < 4 and writer.backlog() == 1
        server.send(signal.SIGCONT)


CHILD = """
import os, signal, sys
from pathlib import Path
from recallfront.platform.tracking import spool
from recallfront.platform.tracking.writer import TrackingWriter

method, countdown = sys.argv[3], int(sys.argv[4])
original = getattr(spool.Spool, method)

def die_instead(*arguments, **named):
    global countdown
    countdown -= 1
    if countdown == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # MLflow has it, the spool does not know
    return original(*arguments, **named)

setattr(spool.Spool, method, die_instead)
writer = TrackingWriter(sys.argv[1], Path(sys.argv[2]))
writer.open_run("sweep", experiment="crash", name="sweep")
writer.open_run("trial", experiment="crash", name="t", parent_key="sweep", tags={"a": "b"}, params={"p": 1})
for first in range(0, 3000, 100):
    writer.metrics("trial", [("loss", s * 0.5, s, 1_700_000_000_000 + s) for s in range(first, first + 100)])
print("appended", flush=True)
writer.flush(60)
"""


@pytest.mark.parametrize(
    ("method", "countdown"),
    [("set_run", 1), ("set_run", 2), ("finish", 1), ("finish", 3), ("finish", 4)],
    ids=["parent created", "trial created", "parent opened", "first batch", "second batch"],
)
def test_a_writer_killed_between_mlflow_and_its_spool(method: str, countdown: int, tmp_path: Path) -> None:
    uri = ready_store(tmp_path)
    spool = tmp_path / "spool.db"
    command = [sys.executable, "-c", textwrap.dedent(CHILD), uri, str(spool), method, str(countdown)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert "appended" in child.stdout
    with closing(TrackingWriter(uri, spool)) as writer:
        assert writer.backlog() > 0
        # The driver starts over: it opens the same runs, its trial repeats the steps since its checkpoint.
        writer.open_run("sweep", experiment="crash", name="sweep")
        writer.open_run("trial", experiment="crash", name="trial", parent_key="sweep", params={"p": 1})
        writer.metrics(
            "trial", [("loss", step * 0.5, step, NOW + 10**9 + step) for step in range(2500, 3500)]
        )
        assert writer.flush(WAIT) and writer.rejected() == 0
        run_id = writer.run_id("trial")
    assert run_id is not None
    assert len(run_ids(uri, "crash")) == 2
    assert steps_of(uri, run_id, "loss") == list(range(3500))
    run = open_client(uri).get_run(run_id)
    assert run.data.tags["a"] == "b" and run.data.params["p"] == "1"


def test_a_writer_killed_before_anything_was_sent(tmp_path: Path) -> None:
    """What was appended while no server was there is sent by the next process."""
    with MlflowServer(tmp_path / "server") as server:
        server.kill()
        spool = tmp_path / "spool.db"
        command = [sys.executable, "-c", textwrap.dedent(CHILD), server.uri, str(spool), "finish", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None and child.stdout.readline() == "appended\n"
            child.kill()
        server.start()
        with closing(TrackingWriter(server.uri, spool)) as writer:
            assert writer.flush(WAIT)
            run_id = writer.run_id("trial")
        assert run_id is not None
        assert steps_of(server.uri, run_id, "loss") == list(range(3000))
