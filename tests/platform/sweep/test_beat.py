"""Two homes with one tracking server: the second driver sees that the first one lives, or that it is gone."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.keeping.delete import find_deletion
from recallfront.platform.lineage.environment import collect
from recallfront.platform.sweep import beat
from recallfront.platform.sweep.beat import Beat, refuse_second_home
from recallfront.platform.sweep.lock import driver_is_gone, mark_driver, only_driver
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_store

SPEC = tiny_spec()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat, "_BEAT_SECONDS", 0.2)
    monkeypatch.setattr(beat, "_WATCH_SECONDS", 3.0)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return ready_store(tmp_path)


@pytest.fixture
def recorder(store: str, tmp_path: Path) -> Iterator[Recorder]:
    """That of a driver in some home, which has begun the sweep."""
    with closing(TrackingWriter(store, tmp_path / "spool.sqlite")) as writer:
        own = Recorder(writer, SPEC, lineage=collect(tmp_path), data=(tmp_path / "data" / "mqar", "d" * 64))
        own.open_sweep()
        assert writer.flush(30.0)
        yield own


def looks(store: str, home: Path) -> list[str]:
    """What the driver of a home says before it begins."""
    said: list[str] = []
    refuse_second_home(SPEC, store, home, said.append)
    return said


def test_a_sweep_that_another_home_runs_is_refused(store: str, recorder: Recorder, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    mark_driver(SPEC.key, one, recorder.driver)
    mark_driver(SPEC.key, two, "an earlier one")
    with only_driver(SPEC, one), only_driver(SPEC, two):
        pass  # both have had a driver, and the locks are free
    with (
        Beat(recorder, store),
        pytest.raises(UsageError, match="is being run from another home with the same tracking server"),
    ):
        looks(store, two)
    # nor is it said to have been killed there, nor deleted
    assert driver_is_gone(SPEC.key, one, recorder.driver) and not driver_is_gone(
        SPEC.key, two, recorder.driver
    )
    with pytest.raises(UsageError, match="runs: cancel it first"):
        find_deletion(SPEC.key, home=two, tracking_uri=store)


def test_one_whose_driver_is_gone_goes_on(store: str, recorder: Recorder, tmp_path: Path) -> None:
    mark_driver(SPEC.key, tmp_path / "one", recorder.driver)
    with Beat(recorder, store):
        time.sleep(0.5)
    assert recorder._writer.flush(30.0)
    (said,) = looks(store, tmp_path / "two")
    assert "whether another home still runs it" in said
    # in its own home the lock tells, whatever a line of the file of its drivers holds
    with (tmp_path / "one" / "sweeps" / SPEC.key[:16] / "drivers.jsonl").open("ab") as file:
        file.write(b"\xff\n")
    assert looks(store, tmp_path / "one") == []


def test_of_two_that_begin_at_once_the_first_ends(
    store: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(beat, "end_driver", ended.set)
    with Beat(recorder, store):
        assert not ended.wait(1.0)
        with closing(TrackingWriter(store, tmp_path / "other.sqlite")) as writer:
            data = (tmp_path / "data" / "mqar", "d" * 64)
            Recorder(writer, SPEC, lineage=collect(tmp_path), data=data).open_sweep()
            assert writer.flush(30.0) and ended.wait(10.0)


def test_one_that_has_ended_is_not_watched(store: str, recorder: Recorder, tmp_path: Path) -> None:
    recorder.interrupt_sweep("interrupted")
    assert recorder._writer.flush(30.0) and looks(store, tmp_path / "two") == []


def test_a_new_one_is_not_watched(store: str, tmp_path: Path) -> None:
    assert looks(store, tmp_path) == []
