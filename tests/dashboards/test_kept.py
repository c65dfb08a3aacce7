"""What a server keeps of sweeps is bounded, and shared."""

import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recallfront.dashboards import reading
from recallfront.dashboards.explore import Explorer
from recallfront.dashboards.kept import Kept
from recallfront.platform.errors import UsageError


def sweep(moment: float, trials: int = 4) -> Any:
    record = SimpleNamespace(trials=range(trials), tags={})
    return SimpleNamespace(view=SimpleNamespace(record=record), moment=moment)


def test_each_sweep_once_is_kept_and_only_so_many_trials() -> None:
    kept, read = Kept(most_trials=10), list[str]()

    def get(name: str, moment: float, trials: int = 4) -> Any:
        def now() -> Any:
            read.append(name)
            return sweep(moment, trials)

        return kept.get(name, moment, now)

    first = get("a", 1.0)
    assert get("a", 1.0) is first and read == ["a"]
    later = get("a", 2.0)
    assert later is not first, "a later moment is read"
    assert get("a", 1.0) is later, "and is as good for who saw an earlier one"
    get("b", 1.0)
    get("a", 2.0)
    get("c", 1.0)
    assert read == ["a", "a", "b", "c"]
    get("a", 2.0)
    assert read == ["a", "a", "b", "c"], "b was asked for longest ago, and made room"
    get("b", 1.0)
    assert read == ["a", "a", "b", "c", "b"]
    large = get("d", 1.0, 50)
    assert get("d", 1.0, 50) is large, "the latest stays, however large"


def test_who_asks_at_once_waits_for_one_reading() -> None:
    kept, read = Kept(), list[str]()

    def slowly(name: str) -> Callable[[], Any]:
        def now() -> Any:
            read.append(name)
            time.sleep(0.2)
            return sweep(5.0)

        return now

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda name: kept.get(name, 5.0, slowly(name)), "ababab"))
    assert sorted(read) == ["a", "b"] and len({id(one) for one in found}) == 2

    def fails() -> Any:
        raise UsageError("there is no such sweep")

    with pytest.raises(UsageError):
        kept.get("c", 1.0, fails)
    assert kept.get("c", 1.0, slowly("c")).moment == 5.0, "a reading that failed bars no other"


def test_a_page_asks_of_the_moment_that_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def view(uri: str, run_id: str) -> Any:
        read.append(run_id)
        time.sleep(0.01)
        return sweep(0.0).view

    monkeypatch.setattr(reading, "_kept", Kept())
    monkeypatch.setattr(reading, "_read", view)
    shown = reading.explorer_of("uri", "r", 0.0)
    monkeypatch.setattr(reading, "_FRESH_SECONDS", 0.0)
    assert reading.explorer_of("uri", "r", shown.moment) is shown, "however long it has been shown"
    later = reading.explorer_of("uri", "r", 0.0)
    assert later.moment > shown.moment
    assert reading.explorer_of("uri", "r", shown.moment) is later, "what another viewer has read is as good"
    assert read == ["r", "r"]
    ahead = reading.explorer_of("uri", "r", time.time() + 1e6)
    assert ahead is not later, "a moment to come is none"


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("running", [False, True])
def test_a_sweep_that_has_ended_is_read_again_once_its_store_was_written_to(
    running: bool, journal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    store = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    store.execute(f"PRAGMA journal_mode={journal}")
    store.execute("CREATE TABLE tags (value TEXT)")

    def view(uri: str, run_id: str) -> Any:
        read.append(run_id)
        found = sweep(0.0).view
        found.record.tags = {"status": "running" if running else "finished"}
        return found

    def ask() -> Explorer:
        return reading.explorer_of(f"sqlite:///{tmp_path / 'mlflow.db'}", "r", 0.0)

    monkeypatch.setattr(reading, "_kept", Kept())
    monkeypatch.setattr(reading, "_read", view)
    monkeypatch.setattr(reading, "_FRESH_SECONDS", 0.0)
    first = ask()
    made: list[Any] = []
    vars(first)["rows"] = made
    again = ask()
    assert again.moment > first.moment, "it was looked at later"
    assert len(read) == (2 if running else 1), (
        "the clock and its lock tell whether the driver of one that runs is there"
    )
    assert running or again.rows is made, "what was made of it is kept"
    store.execute("INSERT INTO tags VALUES ('x')")
    before = len(read)
    third = ask()
    assert len(read) == before + 1, "what has just been written to is read"
    fourth = ask()
    assert len(read) == before + (2 if running else 1), "and then it is as it was read"
    assert running or fourth.view is third.view
    store.execute("INSERT INTO tags VALUES ('y')")
    ask()
    assert len(read) == before + (3 if running else 2)
    store.close()
