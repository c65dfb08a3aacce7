"""The store: made whole or not at all, whoever kills what makes it; found where its home is now."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_artifact
from recallfront.platform.tracking.spool import Spool
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own

_PREPARE = (
    "import sys; from pathlib import Path; from recallfront.platform.tracking.store import prepare_store; "
    "print(prepare_store(None, Path(sys.argv[1])))"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a store, made where an older version had left an unfinished one and the next maker was killed."""
    home = tmp_path_factory.mktemp("made")
    (home / "mlflow.db").touch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, "rename", lambda *_: sys.exit())
        prepare_store(None, home)
    prepare_store(None, home)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "home"))


def test_a_store_is_made_whole_or_not_at_all(made: Path) -> None:
    assert open_client(prepare_store(None, made, create=False)).search_experiments()
    assert not list(made.glob("*.new*"))
    assert (made / "mlflow.db.unfinished").exists(), "what was there is kept"


@pytest.mark.parametrize("statement", ["", "CREATE TABLE experiments (experiment_id INTEGER)"])
def test_an_unfinished_store_is_none(tmp_path: Path, statement: str) -> None:
    (tmp_path / "mlflow.db").touch()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute(statement)
    with pytest.raises(UsageError, match="no MLflow store"):
        prepare_store(None, tmp_path, create=False)


@pytest.mark.slow
def test_a_store_is_made_by_many_processes_at_once_after_one_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PREPARE, str(tmp_path)]
    first = subprocess.Popen(command)
    while first.poll() is None and not (tmp_path / "mlflow.db.new").exists():
        time.sleep(0.01)
    first.kill()
    assert first.wait(300) == -signal.SIGKILL and not (tmp_path / "mlflow.db").exists()
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert out.strip() == f"sqlite:///{tmp_path / 'mlflow.db'}"
        # none of MLflow's chatter either
        assert err == ""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT COUNT(*) FROM alembic_version").fetchone() == (1,)


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "copied"])
def test_a_home_works_where_it_is_now(home: Path, tmp_path: Path, moved: bool) -> None:
    """Artifacts are read and written beside the database, and the spool goes on with what it had."""
    old, new = home, tmp_path / "new"
    writer = TrackingWriter(prepare_store(None, old), old / "spool" / "s.sqlite")
    writer.open_run("r", experiment="study", name="r")
    writer.text("r", "first", "first.txt")
    assert writer.close()
    (old / "weights").mkdir()
    (old / "weights" / "w").touch()
    spool = Spool(old / "spool" / "s.sqlite")
    spool.append("r", [("artifact", 1, {"path": spool.relative(old / "weights"), "artifact_path": None})])
    spool.close()
    if moved:
        old.rename(new)
    else:
        shutil.copytree(old, new)
    before = sorted(old.rglob("*"))
    uri = prepare_store(None, new, create=False)
    client = open_client(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "study"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert read_artifact(client, run.info.run_id, "first.txt") == "first"
    writer = TrackingWriter(uri, new / "spool" / "s.sqlite")
    writer.open_run("r", experiment="study", name="r")
    writer.text("r", "second", "second.txt")
    writer.open_run("other", experiment="study", name="other")
    writer.text("other", "third", "third.txt")
    assert writer.flush(60) and not writer.rejected() and writer.close()
    names = {path.name for path in (new / "mlartifacts").rglob("*") if path.is_file()}
    assert names == {"first.txt", "second.txt", "third.txt", "w"}
    assert sorted(old.rglob("*")) == before


def test_a_full_disk_is_what_the_spool_says(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count={pages + 2}")  # stands for the full disk
    with pytest.raises(UsageError, match="full"):
        spool.append("run", [("metrics", 1, ["x" * 100_000])])
    spool._db.execute("PRAGMA max_page_count=1000000")
    spool.append("run", [("metrics", 1, ["x"])])
    assert spool.backlog() == 1
    spool.close()


@pytest.mark.parametrize("damage", ["truncated", "no database"])
def test_a_damaged_spool_is_put_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spool.sqlite"
    spool = Spool(path)
    spool.append("run", [("metrics", 1, ["x" * 50_000])])
    spool.close()
    content = path.read_bytes()
    path.write_bytes(os.urandom(5000) if damage == "no database" else content[: len(content) // 2])
    spool = Spool(path)
    assert spool.backlog() == 0 and "is damaged" in caplog.text
    spool.close()
    assert Path(f"{path}.damaged").exists()


def test_what_an_edited_store_lost_is_made_again(home: Path) -> None:
    """A sweep's run that was deleted is made anew and its trials belong to it; a renamed experiment is kept to."""
    uri = prepare_store(None, home, create=False)
    client, writer = open_client(uri), TrackingWriter(uri, home / "spool" / "s.sqlite")

    def open_both(child: str) -> tuple[str, str]:
        writer.open_run("sweep", experiment="study", name="sweep")
        writer.open_run(child, experiment="study", name=child, parent_key="sweep")
        assert writer.flush(60)
        return str(writer.run_id("sweep")), str(writer.run_id(child))

    first, child = open_both("trial")
    experiment = client.get_run(first).info.experiment_id
    client.rename_experiment(experiment, "renamed")
    again, other = open_both("another")
    assert again == first and client.get_run(other).info.experiment_id == experiment
    client.delete_run(first)
    anew, same = open_both("trial")
    writer.close()
    assert anew != first and same == child
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == anew
    assert client.get_run(anew).info.experiment_id == experiment, "its trials are found there"
