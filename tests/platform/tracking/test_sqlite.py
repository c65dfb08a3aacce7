"""The state of a SQLite store, by which a page that has been read is known to be as it was."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform.tracking.sqlite import store_state
from tests.platform.stores import ready_home


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return ready_home(tmp_path) / "mlflow.db"


def uri_of(store: Path) -> str:
    return f"sqlite:///{store}"


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_each_write_changes_it_at_once_and_nothing_else_does(store: Path, journal: str) -> None:
    with closing(sqlite3.connect(store)) as own:
        own.execute(f"PRAGMA journal_mode = {journal}")
        seen = {store_state(uri_of(store))}
        for number in range(3):
            assert store_state(uri_of(store)) in seen, "nothing was written"
            own.execute("SELECT count(*) FROM runs").fetchall()
            assert store_state(uri_of(store)) in seen, "it was read"
            with own:
                own.execute("INSERT INTO experiments (name) VALUES (?)", (str(number),))
                assert store_state(uri_of(store)) in seen, "it is not there yet"
            assert (state := store_state(uri_of(store))) not in seen
            seen.add(state)
    assert len(seen) == 4 and None not in seen


def test_what_another_process_writes_changes_it(store: Path) -> None:
    before = store_state(uri_of(store))
    write = "import sqlite3, sys; own = sqlite3.connect(sys.argv[1]); own.execute(sys.argv[2]); own.commit()"
    question = "INSERT INTO experiments (name) VALUES ('other')"
    subprocess.run([sys.executable, "-c", write, store, question], check=True)
    assert store_state(uri_of(store)) not in (before, None)


def test_another_file_in_its_place_is_another_store(store: Path, tmp_path: Path) -> None:
    before = store_state(uri_of(store))
    shutil.copy(store, tmp_path / "copy.db")
    (tmp_path / "copy.db").rename(store)
    after = store_state(uri_of(store))
    assert after not in (before, None)
    store.unlink()
    assert store_state(uri_of(store)) is None and not store.exists()


def test_it_is_known_of_sqlite_files_alone(tmp_path: Path) -> None:
    assert store_state("http://127.0.0.1:5000") is None
    assert store_state("postgresql://user@host/name") is None
    assert store_state(f"sqlite:///{tmp_path / 'none.db'}") is None
    (tmp_path / "no.db").write_text("no database at all, however long the text of it may be " * 20)
    assert store_state(f"sqlite:///{tmp_path / 'no.db'}") is None
