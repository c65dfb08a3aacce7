"""Store, spool and writer against a real SQLite store in this process."""

import logging
import math
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from recallfront.benchmarks.platform.writer_rate import writer_rate
from recallfront.platform.errors import UsageError
from recallfront.platform.tracking.client import fail_fast, open_client
from recallfront.platform.tracking.places import sqlite_path
from recallfront.platform.tracking.spool import Spool
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter, shorten
from tests.platform.tracking.conftest import NOW, WAIT, history, opened

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own


def test_a_run_is_written_whole(uri: str, writer: TrackingWriter, tmp_path: Path) -> None:
    writer.open_run("whole/sweep", experiment="my study", name="sweep", description="what it is")
    writer.open_run(
        "whole/trial",
        experiment="my study",
        name="trial",
        parent_key="whole/sweep",
        tags={"recallfront.kind": "trial"},
        params={"lr": 0.001, "long": "p" * 7000},
    )
    writer.metrics(
        "whole/trial", [("loss", 2.0, 0, NOW), ("loss", 1.0, 1, NOW + 1), ("recall", 0.5, 1, NOW + 1)]
    )
    writer.tags("whole/trial", {"recallfront.failure": "head" + "x" * 9000 + "tail"})
    writer.text("whole/trial", "some text", "notes/a.txt")
    file, folder = tmp_path / "file.txt", tmp_path / "folder"
    file.write_text("gone soon")
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "it.txt").write_text("deep")
    writer.artifact("whole/trial", file, "files", ephemeral=True)
    file.unlink()
    writer.artifact("whole/trial", folder)
    writer.dataset("whole/trial", name="mqar", source="recallfront mqar", digest="d" * 64, context="train")
    writer.close_run("whole/trial", "FINISHED", end_time_ms=NOW + 5)
    assert writer.flush(WAIT) and writer.backlog() == 0 and writer.rejected() == 0

    run_id, parent_id = writer.run_id("whole/trial"), writer.run_id("whole/sweep")
    assert run_id and parent_id
    client = open_client(uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.end_time == NOW + 5
    assert run.data.params["lr"] == "0.001"
    assert len(run.data.params["long"]) == 6000 and " ... " in run.data.params["long"]
    failure = run.data.tags["recallfront.failure"]
    assert len(failure) == 8000 and failure.startswith("head") and failure.endswith("tail")
    assert run.data.tags["mlflow.parentRunId"] == parent_id
    assert run.data.tags["recallfront.run_key"] == "whole/trial"
    assert run.data.metrics == {"loss": 1.0, "recall": 0.5}
    assert history(uri, run_id, "loss") == [(0, 2.0), (1, 1.0)]
    parent = client.get_run(parent_id)
    assert parent.info.status == "RUNNING" and parent.data.tags["mlflow.note.content"] == "what it is"
    database = sqlite_path(uri)
    assert database is not None
    artifacts = database.parent / "mlartifacts" / "my-study" / run_id / "artifacts"
    found = {str(path.relative_to(artifacts)): path.read_text() for path in artifacts.rglob("*.txt")}
    assert found == {"notes/a.txt": "some text", "files/file.txt": "gone soon", "folder/in/it.txt": "deep"}
    assert not list((tmp_path / "spool" / "spool.files").iterdir())
    assert run.inputs is not None
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("mqar", "d" * 36)


def test_values_that_are_no_numbers_arrive(uri: str, writer: TrackingWriter) -> None:
    run_id = opened(writer, "nan")
    values = [math.nan, math.inf, -math.inf, 1.0]
    writer.metrics("nan", [("loss", value, step, NOW) for step, value in enumerate(values)])
    assert writer.flush(WAIT) and writer.rejected() == 0
    stored = [value for _, value in history(uri, run_id, "loss")]
    assert math.isnan(stored[0]) and stored[1] > 1e308 and stored[2] < -1e308 and stored[3] == 1.0


def test_repeated_steps_are_logged_once(uri: str, writer: TrackingWriter) -> None:
    run_id = opened(writer, "again")
    writer.metrics("again", [("loss", 1.0, step, NOW) for step in range(10)])
    assert writer.flush(WAIT)
    writer.metrics("again", [("loss", 9.0, step, NOW + 9) for step in range(5, 12)])
    writer.metrics("again", [("other", 2.0, 3, NOW), ("other", 3.0, 3, NOW)])
    assert writer.flush(WAIT)
    assert history(uri, run_id, "loss") == [(step, 1.0 if step < 10 else 9.0) for step in range(12)]
    assert history(uri, run_id, "other") == [(3, 2.0)]


def test_a_known_run_is_reopened(uri: str, tmp_path: Path) -> None:
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        run_id = opened(writer, "reopen")
        writer.close_run("reopen", "FAILED")
        assert writer.flush(WAIT)
        assert open_client(uri).get_run(run_id).info.status == "FAILED"
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        writer.open_run("reopen", experiment="study", name="reopen", tags={"new": "tag"})
        assert writer.flush(WAIT) and writer.run_id("reopen") == run_id
        run = open_client(uri).get_run(run_id)
        assert run.info.status == "RUNNING" and run.data.tags["new"] == "tag"


def test_a_lost_spool_makes_no_second_run(uri: str, tmp_path: Path) -> None:
    with closing(TrackingWriter(uri, tmp_path / "first.db")) as writer:
        run_id = opened(writer, "adopted")
        writer.metrics("adopted", [("loss", 1.0, step, NOW) for step in range(5)])
        assert writer.flush(WAIT)
    with closing(TrackingWriter(uri, tmp_path / "second.db")) as writer:
        writer.open_run("adopted", experiment="study", name="adopted")
        writer.metrics("adopted", [("loss", 2.0, step, NOW + 7) for step in range(3, 7)])
        assert writer.flush(WAIT) and writer.run_id("adopted") == run_id
    assert history(uri, run_id, "loss") == [(step, 1.0 if step < 5 else 2.0) for step in range(7)]


def test_what_mlflow_refuses_does_not_block_the_rest(
    uri: str, writer: TrackingWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = opened(writer, "refused")
    writer.params("refused", {"lr": 1})
    assert writer.flush(WAIT)
    with caplog.at_level(logging.WARNING):
        writer.params("refused", {"a": 1, "lr": 2, "b": 3})
        writer.metrics("refused", [("good", 1.0, 0, NOW), ("bad*key", 1.0, 0, NOW), ("good", 2.0, 1, NOW)])
        writer.artifact("refused", tmp_path / "never was")
        writer.tags("refused", {"tag": "set"})
        assert writer.flush(WAIT)
    run = open_client(uri).get_run(run_id)
    assert run.data.params == {"lr": "1", "a": "1", "b": "3"}
    assert history(uri, run_id, "good") == [(0, 1.0), (1, 2.0)]
    assert run.data.tags["tag"] == "set"
    assert writer.rejected() == 3
    assert sum("MLflow refused" in record.message for record in caplog.records) == 1


def test_a_refused_run_takes_its_events_along(uri: str, writer: TrackingWriter) -> None:
    writer.open_run("hopeless", experiment="", name="an experiment needs a name")
    writer.metrics("hopeless", [("loss", 1.0, 0, NOW)])
    opened(writer, "hopeful")
    assert writer.flush(WAIT) and writer.rejected() == 2 and writer.run_id("hopeless") is None


def test_a_new_trial_costs_four_requests(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its run, one batch of all that was told of it, its data set, and its end."""
    opened(writer, "few/sweep")
    asked, within = list[str](), list[str]()
    for name in (
        "create_run",
        "search_runs",
        "get_run",
        "get_experiment",
        "log_batch",
        "log_inputs",
        "update_run_info",
    ):
        real = getattr(SqlAlchemyStore, name)

        def told(*args: Any, name: str = name, real: Any = real, **kwargs: Any) -> Any:
            # what the store asks itself is no request
            asked.extend([name] if not within else [])
            within.append(name)
            try:
                return real(*args, **kwargs)
            finally:
                within.pop()

        monkeypatch.setattr(SqlAlchemyStore, name, told)
    for key in ("few/1", "few/2"):
        writer.open_run(
            key,
            experiment="study",
            name=key,
            parent_key="few/sweep",
            is_new=True,
            tags={"a": 1},
            params={"b": 2},
        )
        writer.text(key, "{}", "config.json")
        writer.dataset(key, name="data", source="here", digest="0", context="training")
        writer.metrics(key, [("loss", 1.0, 0, NOW)])
        writer.artifact(key, Path(__file__))
        writer.tags(key, {"recallfront.status": "finished"})
        writer.close_run(key, "FINISHED")
        assert writer.flush(30.0)
    second = asked[asked.index("update_run_info") + 1 :]
    assert second == ["create_run", "log_inputs", "log_batch", "update_run_info"]


def test_big_batches_are_split(uri: str, writer: TrackingWriter) -> None:
    run_id = opened(writer, "big")
    writer.metrics("big", [("loss", float(step), step, NOW) for step in range(2500)])
    writer.params("big", {f"p{i}": "é" * 5000 for i in range(250)})
    writer.tags("big", {f"t{i}": "v" * 7000 for i in range(120)})
    assert writer.flush(WAIT) and writer.rejected() == 0
    run = open_client(uri).get_run(run_id)
    assert len(run.data.params) == 250 and len(run.data.tags) >= 120
    assert len(history(uri, run_id, "loss")) == 2500


def test_wrong_use_is_an_error(writer: TrackingWriter) -> None:
    with pytest.raises(ValueError, match="'nobody' was not opened"):
        writer.metrics("nobody", [("loss", 1.0, 0, NOW)])
    with pytest.raises(ValueError, match="'nobody' was not opened"):
        writer.open_run("child", experiment="study", name="child", parent_key="nobody")


def test_the_spool_has_one_process_and_one_store(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    with closing(TrackingWriter(uri, path)):
        program = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0.1).execute('SELECT * FROM runs')"
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "database is locked" in other.stderr
    spool = Spool(path)
    spool.append("waits", [("open", 1, {})])
    spool.close()
    with pytest.raises(UsageError, match="1 events in the spool .* still wait for the MLflow store"):
        TrackingWriter("sqlite:////elsewhere.db", path)


def test_the_spool_keeps_order_and_what_is_not_finished(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    for index in range(3):
        spool.append("a", [("metrics", 400, [index])])
        spool.append("b", [("metrics", 1, [index])])
    assert spool.next_run() == "a" and spool.next_run(besides=["a"]) == "b"
    first = spool.peek("a", items=1000)
    assert [event.payload for event in first] == [[0], [1]]
    spool.finish(first, {"loss": 7})
    spool.close()
    spool = Spool(tmp_path / "spool.db")
    assert spool.backlog() == 4 and spool.next_run() == "b"
    assert [event.payload for event in spool.peek("a", items=1)] == [[2]]
    assert spool.last_steps("a") == {"loss": 7} and spool.knows("b") and not spool.knows("c")
    spool.close()


def test_shorten_keeps_both_ends() -> None:
    assert shorten("short", 10) == "short"
    cut = shorten("a" * 50 + "z" * 50, 21)
    assert len(cut) == 21 and cut.startswith("aaaa") and cut.endswith("zzzz")


def test_overlapping_fail_fast_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setenv(name, "99")
    outer, inner = fail_fast(60), fail_fast(4)
    outer.__enter__()
    inner.__enter__()
    assert os.environ[name] == "4"
    outer.__exit__(None, None, None)
    assert os.environ[name] == "4"
    inner.__exit__(None, None, None)
    assert os.environ[name] == "99"


@pytest.mark.alone
@pytest.mark.usefixtures("no_such_host")
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///runs", "'file:///runs' is not supported: allowed are"),
        ("nonsense", "'nonsense' is not supported: allowed are"),
        ("http://", "names no host"),
        ("sqlite://", "names no file"),
        ("sqlite:////proc/no/such.db", "cannot be opened"),
        ("http://127.0.0.1:9", "does not answer"),
        ("http://no.such.host.invalid:5000", "does not answer"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_sentence(uri: str, said: str, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UsageError, match=said) as caught:
        prepare_store(uri, tmp_path)
    assert time.monotonic() - start < 8 and "\n" not in str(caught.value)


def test_something_else_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)
    with pytest.raises(UsageError, match="cannot be opened"):
        prepare_store(f"sqlite:///{path}", tmp_path)


@pytest.mark.alone
@pytest.mark.slow
def test_the_writer_sustains_5000_metrics_a_second_or_what_the_store_takes() -> None:
    """The rates of the store and of the spool alone, in the same run, tell a machine on which they take fewer.

    The writer does more than a caller alone: each row is also written to the spool and read back.
    """
    for _ in range(3):  # others can only lower a rate
        measured = writer_rate(20_000)
        print({name: round(value, 3) for name, value in measured.items()})
        sent = min(5_000, 0.75 * measured["store_rows_per_second"])
        appended = min(50_000, measured["spool_rows_per_second"] / 5)
        a_call = max(1.0, 5 * 100 * 1e3 / measured["spool_rows_per_second"])  # ms, of 100 rows
        keeps_up = measured["sent_rows_per_second"] >= sent
        returns_soon = measured["append_rows_per_second"] >= appended and measured["append_ms"] < a_call
        if keeps_up and returns_soon:
            break
    assert keeps_up and returns_soon, measured
