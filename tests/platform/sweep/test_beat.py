"""Two homes with one tracking server: the second driver sees that the first one lives, or that it is gone."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from recallfront.dashboards.sweeps_page import lines_of
from recallfront.platform.errors import UsageError
from recallfront.platform.keeping.delete import find_deletion
from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.cancellation import BEAT
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import PlannedTrial, Planner
from recallfront.platform.search.samplers import make_search
from recallfront.platform.status import sweep_table, sweeps_table
from recallfront.platform.sweep import background, beat, driverless
from recallfront.platform.sweep import cancel as cancel_module
from recallfront.platform.sweep.beat import Beat, Takeover, refuse_second_home
from recallfront.platform.sweep.cancel import cancel
from recallfront.platform.sweep.lock import driver_is_gone, mark_driver, only_driver
from recallfront.platform.sweep.log import SweepLog
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.ledger import list_sweeps, read_sweep, writing
from recallfront.platform.tracking.spool import Spool
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_store
from tests.platform.sweeps import wait_for

SPEC = tiny_spec()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(driverless, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(driverless, "SILENT_SECONDS", 8.0)  # a busy machine is late


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


def takeover_from(recorder: Recorder, store: str, tell_time: Callable[[], None] = lambda: None) -> Takeover:
    """From a driver that has found the sweep new."""
    return Takeover(recorder, store, (), tell_time)


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
    # nor is it said to have been killed there
    assert driver_is_gone(SPEC.key, one, recorder.driver) and not driver_is_gone(
        SPEC.key, two, recorder.driver
    )
    # nor is it deleted, unless its driver is gone
    with Beat(recorder, store), pytest.raises(UsageError, match="runs: cancel it first"):
        find_deletion(SPEC.key, home=two, tracking_uri=store)
    assert find_deletion(SPEC.key, home=two, tracking_uri=store).record.sweep_key == SPEC.key


def test_status_and_the_pages_tell_a_driver_elsewhere_that_waits_from_one_that_was_killed(
    store: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = tmp_path / "two"

    def shown() -> tuple[str, str]:
        (state,) = sweeps_table(home=two, tracking_uri=store).columns[2].cells
        return str(state), str(sweep_table(SPEC.key, home=two, tracking_uri=store).caption)

    def on_page() -> str:
        (line,) = lines_of(list_sweeps(store), store)
        return line.state

    with Beat(recorder, store):  # nothing else happens: it waits for a node, say
        assert shown() == ("running", "None") and on_page() == "running"
    assert on_page() == "running", "this process has only begun to watch it"
    killed = "killed: run it again to resume"
    time.sleep(1)  # nor has it just beaten
    assert shown() == (killed, killed) and on_page() == "killed"
    with monkeypatch.context() as slower:
        slower.setattr(driverless, "BEAT_SECONDS", 600.0)
        assert shown() == ("running", "None"), "it has just beaten, for a driver that beats so rarely"
        assert on_page() == "running"
    with monkeypatch.context() as at_once:
        at_once.setattr(driverless, "watch_beats", lambda *_, **__: (set(), set()))
        assert shown() == ("running", "None")
        at_once.setattr(driverless, "_LONG_SECONDS", 0.5)
        assert shown() == (killed, killed), "its last beat is long ago"
        assert on_page() == "killed"
    # the lock of its own home tells at once, whatever the beat
    mark_driver(SPEC.key, tmp_path / "one", recorder.driver)
    with only_driver(SPEC, tmp_path / "one"):
        pass
    monkeypatch.setattr(driverless, "BEAT_SECONDS", 600.0)
    (state,) = sweeps_table(home=tmp_path / "one", tracking_uri=store).columns[2].cells
    assert str(state) == killed
    monkeypatch.setattr(driverless, "BEAT_SECONDS", 0.2)
    with Beat(recorder, store):
        wait_for(lambda: on_page() == "running", seconds=30)


def test_a_request_to_a_driver_that_is_gone_is_told_so(
    store: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel_module, "PATIENCE_SECONDS", 8.0)
    asked = partial(cancel, SPEC.key, home=tmp_path / "two", tracking_uri=store)
    with Beat(recorder, store), pytest.raises(UsageError, match="its driver has not answered in 8 s"):
        asked()
    with pytest.raises(
        UsageError,
        match="has given no sign of life for 8 s: it is gone, or cannot reach the store; the request stays",
    ):
        asked()
    # of one of this home its lock tells that it lives
    mark_driver(SPEC.key, tmp_path / "one", recorder.driver)
    with (
        only_driver(SPEC, tmp_path / "one"),
        pytest.raises(UsageError, match="its driver has not answered in 8 s"),
    ):
        cancel(SPEC.key, home=tmp_path / "one", tracking_uri=store)


def test_one_whose_driver_is_gone_goes_on(store: str, recorder: Recorder, tmp_path: Path) -> None:
    mark_driver(SPEC.key, tmp_path / "one", recorder.driver)
    with Beat(recorder, store):
        time.sleep(0.5)
    (said,) = looks(store, tmp_path / "two")
    assert "whether another home still runs it" in said
    # in its own home the lock tells, whatever a line of the file of its drivers holds
    with (tmp_path / "one" / "sweeps" / SPEC.key[:16] / "drivers.jsonl").open("ab") as file:
        file.write(b"\xff\n")
    assert looks(store, tmp_path / "one") == []


@pytest.mark.parametrize("has_looked", [True, False], ids=["after a look", "before its first look"])
def test_of_two_that_begin_at_once_the_first_ends_and_writes_nothing_more(
    store: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_looked: bool
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(beat, "end_driver", ended.set)
    with takeover_from(recorder, store) as takeover:
        assert not (has_looked and ended.wait(1.0))
        with closing(TrackingWriter(store, tmp_path / "other.sqlite")) as writer:
            data = (tmp_path / "data" / "mqar", "d" * 64)
            second = Recorder(writer, SPEC, lineage=collect(tmp_path), data=data)
            second.open_sweep()
            assert writer.flush(30.0) and ended.wait(10.0) and takeover.has_come
            second.close_sweep(finished=True, exhausted=True)
            assert writer.flush(30.0)
    recorder.interrupt_sweep("interrupted")
    assert recorder._writer.flush(30.0)
    assert read_sweep(store, SPEC.key).tags["status"] == "finished", "it is the second one's"


def test_a_driver_that_another_follows_writes_nothing_more_though_its_disk_is_full(
    store: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, has_given_up, later = recorder._writer, threading.Event(), list[bool]()

    def full() -> int:
        raise OSError("the disk is full")

    def is_away(*_: object, **__: object) -> bool:
        later.append(has_given_up.is_set())
        raise ConnectionError("the store is away")

    recorder._log = SweepLog(tmp_path / "log" / "sweep.log")
    recorder._log.path = Path("/dev/full")
    monkeypatch.setattr(writer._spool, "drop", full)
    monkeypatch.setattr(writer._sender, "step", is_away)
    recorder.sweep_tags({"recallfront.status": "interrupted"})
    wait_for(lambda: later, seconds=30)
    with pytest.raises(OSError, match="the disk is full"):
        recorder.give_up()
    has_given_up.set()
    time.sleep(0.1)  # for a request that is under way
    later.clear()
    recorder.sweep_tags({"recallfront.status": "error"})
    assert writer.flush(1.0), "nobody waits for what is not sent"
    time.sleep(2.0)  # longer than it waits for a store that is away
    assert later == [] and writer.backlog() == 1


def test_what_waits_of_a_driver_is_dropped_if_another_has_followed_it(
    store: str, recorder: Recorder, tmp_path: Path
) -> None:
    """It is killed while the store is away, another home finishes the sweep, and the first home runs it again."""

    def opened(spool: str, last: str | None) -> TrackingWriter:
        return TrackingWriter(store, tmp_path / spool, last_driver=last)

    own = Spool(tmp_path / "killed.sqlite")
    own.bind(store)
    own.note_drivers([None, "killed"])
    own.append(recorder.sweep_run, [("open", 1, {"experiment": "tiny", "name": "x", "parent_key": None})])
    own.append(recorder.sweep_run, [("tags", 1, [["recallfront.status", "running"]])])
    own.close()
    recorder.close_sweep(finished=True, exhausted=True)
    assert recorder._writer.flush(30.0)
    with closing(opened("killed.sqlite", recorder.driver)) as writer:
        assert writer.backlog() == 0 and not writer.knows(recorder.sweep_run)
    assert read_sweep(store, SPEC.key).tags["status"] == "finished"
    # of its own driver, and of one that came before it, what waits is told
    for last in (None, "killed", "before"):
        own = Spool(tmp_path / f"{last}.sqlite")
        own.bind(store)
        own.note_drivers(["before", "killed"])
        own.append("a", [("open", 1, {"experiment": "tiny", "name": "x", "parent_key": None})])
        assert not own.is_behind(last)
        own.close()
    # nor is it, if it waits for another store
    own = Spool(tmp_path / "elsewhere.sqlite")
    own.bind("http://elsewhere")
    own.note_drivers(["killed"])
    own.append("a", [("open", 1, {"experiment": "tiny", "name": "x", "parent_key": None})])
    own.close()
    with pytest.raises(UsageError, match="1 events in the spool .* still wait for the MLflow store"):
        opened("elsewhere.sqlite", recorder.driver)


def test_a_beat_that_fails_whatever_the_reason_is_told_once_and_tried_again(
    store: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missed = threading.Semaphore(0)

    def fails(uri: str) -> None:
        missed.release()
        raise RuntimeError("no such backend")

    def sign() -> str | None:
        return read_sweep(store, SPEC.key).tags.get(BEAT)

    with Beat(recorder, store):
        wait_for(lambda: sign() is not None)
        monkeypatch.setattr(beat, "writing", fails)
        for _ in range(3):
            assert missed.acquire(timeout=30.0)
        monkeypatch.setattr(beat, "writing", writing)
        before = sign()
        wait_for(lambda: sign() != before)
    told = [line for line in caplog.messages if "cannot tell the store that it lives" in line]
    assert len(told) == 1 and told[0].endswith("RuntimeError: no such backend")


def test_a_look_for_another_driver_that_fails_whatever_the_reason_is_told_once_and_tried_again(
    store: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missed, noted, ended = threading.Semaphore(0), threading.Event(), threading.Event()

    def fails(*_: object) -> None:
        missed.release()
        raise RuntimeError("no such backend")

    monkeypatch.setattr(beat, "end_driver", ended.set)
    monkeypatch.setattr(beat, "last_driver", fails)
    with takeover_from(recorder, store, noted.set) as takeover:
        for _ in range(3):
            assert missed.acquire(timeout=30.0)
        assert noted.wait(30.0), "the time that is spent counts meanwhile"
        monkeypatch.setattr(beat, "last_driver", lambda *_: "another driver")
        assert ended.wait(30.0) and takeover.has_come
    told = [line for line in caplog.messages if "cannot see whether another home drives" in line]
    assert len(told) == 1 and told[0].endswith("RuntimeError: no such backend")


def test_a_store_that_answers_late_does_not_end_what_has_ended(
    store: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer, ended = threading.Event(), threading.Event(), threading.Event()

    def late(*_: object) -> str:
        asked.set()
        answer.wait(10.0)
        return "another driver"

    monkeypatch.setattr(beat, "last_driver", late)
    monkeypatch.setattr(beat, "end_driver", ended.set)
    monkeypatch.setattr(background, "_LEAVE_SECONDS", 0.1)
    with pytest.raises(KeyboardInterrupt), takeover_from(recorder, store) as takeover:
        assert asked.wait(10.0)
        raise KeyboardInterrupt
    recorder.interrupt_sweep("interrupted")
    answer.set()
    takeover._thread.join(10.0)
    assert recorder._writer.flush(30.0) and not ended.is_set() and not takeover.has_come
    assert read_sweep(store, SPEC.key).tags["status"] == "interrupted"


@pytest.mark.parametrize("error", [UsageError, ValueError])
def test_time_is_told_again_after_it_could_not_be_written(
    store: str, recorder: Recorder, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    fails, told = iter([True, False]), threading.Event()

    def tell_time() -> None:
        if next(fails, False):
            raise error("the disk is full")
        told.set()

    with takeover_from(recorder, store, tell_time):
        assert told.wait(30)
    assert "the disk is full" in caplog.text


def test_one_that_has_ended_is_not_watched(store: str, recorder: Recorder, tmp_path: Path) -> None:
    recorder.interrupt_sweep("interrupted")
    assert recorder._writer.flush(30.0) and looks(store, tmp_path / "two") == []


def test_a_new_one_is_not_watched(store: str, tmp_path: Path) -> None:
    assert looks(store, tmp_path) == []


def test_what_an_earlier_driver_left_running_does_not_run(
    store: str, recorder: Recorder, tmp_path: Path
) -> None:
    """Until it begins again: the pages list what runs now."""
    planner = Planner(SPEC, make_search(SPEC), {})
    plans = [plan for plan in (planner.next(), planner.next()) if isinstance(plan, PlannedTrial)]
    for plan in plans:
        recorder.open_trial(plan)
    assert recorder._writer.flush(30.0)

    def running() -> set[str]:
        return {trial.trial_key for trial in read_sweep(store, SPEC.key).with_status(Status.RUNNING)}

    keys = [plan.config.key for plan in plans]
    assert running() == set(keys)
    data = (tmp_path / "data" / "mqar", "d" * 64)
    later = Recorder(recorder._writer, SPEC, lineage=recorder._lineage, data=data, stored=keys, left=keys)
    later.open_sweep()
    later.open_trial(plans[1])
    assert later._writer.flush(30.0)
    assert running() == {keys[1]}
