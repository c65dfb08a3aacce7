"""The log of a sweep, and of one trial of it: read, followed, and what a trial prints in it."""

import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.results.cancellation import BEAT, DRIVER
from recallfront.platform.results.records import TAG
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep import driverless
from recallfront.platform.sweep import log as log_module
from recallfront.platform.sweep.driverless import beat_sign
from recallfront.platform.sweep.log import SweepLog, driver_line, log_of, log_path, read_log
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.places import artifact_location
from recallfront.platform.trial.output import Output
from tests.platform.stores import ready_store
from tests.platform.sweeps import wait_for

KEY, FIRST, SECOND = "ab" * 32, "1f" * 32, "2e" * 32


@pytest.fixture
def stored(tmp_path: Path) -> tuple[str, str]:
    """A sweep of two trials in a store -> its tracking URI and run id."""
    uri = ready_store(tmp_path)
    client = open_client(uri)
    experiment = client.create_experiment("mine", artifact_location(uri, "mine"))

    def run(parent: str = "", **tags: str) -> str:
        own = {TAG + name: value for name, value in ({"sweep_key": KEY} | tags).items()}
        own["mlflow.parentRunId"] = parent
        return str(client.create_run(experiment, tags=own).info.run_id)

    sweep = run(kind="sweep", status="running")
    for key in (FIRST, SECOND):
        run(sweep, kind="trial", trial_key=key, status="running", config="{}")
    return uri, sweep


def texts(lines: list[str]) -> list[str]:
    return [line.split("  ", 2)[2] for line in lines]


def test_a_log_is_told_whole_or_of_one_trial(stored: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sweep mine \(abababab\) has no log yet"):
        list(read_log("mine", home=tmp_path))
    log = SweepLog(log_path(KEY, tmp_path))
    log.write("it begins")
    log.report(FIRST, Report(step=10, rows=[("loss", 0.5, 10, 0)], output=["a warning", "  of two lines"]))
    failed = Report(step=12, status=Status.ERROR, failure="ValueError: no", traceback="Traceback:\n  line 1")
    log.report(SECOND, failed)
    assert texts(list(read_log("mine", home=tmp_path))) == [
        "it begins",
        "a warning",
        "  of two lines",
        "step 10: loss 0.5",
        "error at step 12: ValueError: no",
        "Traceback:",
        "  line 1",
    ]
    assert texts(list(read_log("mine", FIRST[:8], home=tmp_path))) == [
        "a warning",
        "  of two lines",
        "step 10: loss 0.5",
    ]
    with pytest.raises(UsageError, match="give at least 6 of its first hex digits"):
        list(read_log("mine", FIRST[:5], home=tmp_path))
    with pytest.raises(UsageError, match="there is no run 'abcdef99'"):
        list(read_log("mine", "abcdef99", home=tmp_path))


def test_the_log_of_a_trial_that_a_later_sweep_has_as_well(stored: tuple[str, str], tmp_path: Path) -> None:
    client = open_client(stored[0])
    own = {"sweep_key": "cd" * 32, "kind": "trial", "trial_key": FIRST, "status": "running", "config": "{}"}
    client.create_run(client.create_experiment("later"), tags={TAG + name: tag for name, tag in own.items()})
    SweepLog(log_path(KEY, tmp_path)).write("it trains", FIRST)
    assert texts(list(read_log("mine", FIRST[:8], home=tmp_path))) == ["it trains"]


def test_a_log_is_read_from_the_store_where_the_home_is_another(
    stored: tuple[str, str], tmp_path: Path
) -> None:
    uri, run_id = stored
    open_client(uri).log_text(run_id, "t  ------------  it begins\n", "log.txt")
    assert texts(list(read_log("mine", home=tmp_path / "other", tracking_uri=uri))) == ["it begins"]


def test_a_log_is_followed_until_the_sweep_has_ended(stored: tuple[str, str], tmp_path: Path) -> None:
    uri, run_id = stored
    log, found = SweepLog(log_path(KEY, tmp_path)), list[str]()
    log.write("one")
    reader = threading.Thread(target=lambda: found.extend(read_log("mine", home=tmp_path, follow=True)))
    reader.start()
    log.write("two")
    time.sleep(1.5)
    log.write("three")
    open_client(uri).set_tag(run_id, f"{TAG}status", "finished")
    reader.join(30)
    assert texts(found) == ["one", "two", "three"]


def test_a_driver_elsewhere_goes_on_with_the_log(
    stored: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sends the whole of it, and the first machine reads what the second one adds."""
    monkeypatch.setattr(log_module, "_LEAST_SECONDS", 0.5)
    uri, run_id = stored
    client, homes = open_client(uri), (tmp_path / "one", tmp_path / "two")

    def drives(home: Path, driver: str, *lines: str) -> None:
        log = log_of(read_sweep(uri, KEY), home, uri)
        log.write(f"is run by {driver_line(driver)}")
        client.set_tag(run_id, f"{TAG}driver", driver)
        for line in lines:
            log.write(line)
        client.log_text(run_id, (log.due(last=True) or b"").decode(), "log.txt")

    def told(home: Path) -> list[str]:
        return texts(list(read_log("mine", home=home, tracking_uri=uri)))

    drives(homes[0], "d1", "one")
    found = list[str]()
    follow = partial(read_log, "mine", home=homes[0], tracking_uri=uri, follow=True)
    reader = threading.Thread(target=lambda: found.extend(follow()))
    reader.start()
    drives(homes[1], "d2", "two")
    both = ["is run by driver d1", "one", "is run by driver d2", "two"]
    assert told(homes[0]) == told(homes[1]) == both
    drives(homes[0], "d3", "three")
    assert told(homes[0]) == told(homes[1]) == [*both, "is run by driver d3", "three"]
    client.set_tag(run_id, f"{TAG}status", "finished")
    reader.join(30)
    assert texts(found) == told(homes[0])


def test_a_copy_whose_beginning_is_cut_is_followed(
    stored: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow has the last part of a long log, which does not grow any more."""
    monkeypatch.setattr(log_module, "_LEAST_SECONDS", 0.5)
    monkeypatch.setattr(log_module, "KEPT_BYTES", 80)
    uri, run_id = stored
    client, log, found = open_client(uri), SweepLog(tmp_path / "a.log"), list[str]()

    def send(line: str) -> None:
        log.write(line)
        client.log_text(run_id, (log.due(last=True) or b"").decode(), "log.txt")

    def ends_with(line: str) -> bool:
        return texts(found)[-1:] == [line]

    for line in ("one", "two", "three"):
        send(line)
    follow = partial(read_log, "mine", home=tmp_path / "other", tracking_uri=uri, follow=True)
    reader = threading.Thread(target=lambda: found.extend(follow()))
    reader.start()
    for before, line in (("three", "four!"), ("four!", "five!")):
        wait_for(partial(ends_with, before))
        send(line)
    client.set_tag(run_id, f"{TAG}status", "finished")
    reader.join(30)
    assert texts(found) == ["two", "three", "four!", "five!"]


def test_the_log_of_a_driver_elsewhere_is_followed_until_it_has_told_nothing_for_minutes(
    stored: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, run_id = stored
    client, found = open_client(uri), list[str]()
    client.log_text(run_id, "t  ------------  it begins\n", "log.txt")
    client.set_tag(run_id, f"{TAG}{DRIVER}", "d1")
    client.set_tag(run_id, f"{TAG}{BEAT}", beat_sign("d1", 1))
    monkeypatch.setattr(driverless, "SILENT_SECONDS", 1.0)
    follow = partial(read_log, "mine", home=tmp_path / "other", tracking_uri=uri, follow=True)
    reader = threading.Thread(target=lambda: found.extend(follow()))
    reader.start()
    reader.join(5)
    assert reader.is_alive(), "it has just shown that it lives"
    monkeypatch.setattr(driverless, "SILENT_SECONDS", 600.0)
    client.set_tag(run_id, f"{TAG}{BEAT}", f"d1-2@{time.time() - 301:.1f}")
    reader.join(30)
    assert not reader.is_alive() and texts(found) == ["it begins"]


def test_secrets_are_not_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-value-9")
    log = SweepLog(tmp_path / "a.log")
    log.write("it says s3cr3t-value-9")
    assert log.path.read_text().endswith("it says ...\n")


def test_a_log_is_sent_when_it_has_grown_and_in_the_end(tmp_path: Path) -> None:
    log = SweepLog(tmp_path / "a.log")
    assert log.due(last=True) is None
    log.write("one")
    first = log.due()
    assert first is not None and first.endswith(b"one\n")
    log.write("two")
    assert log.due() is None, "not so soon"
    assert (log.due(last=True) or b"").endswith(b"two\n") and log.due(last=True) is None


def test_what_a_process_prints_is_heard_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    with output.heard():
        print("one\ntwo", end="")
        print(" and more")
        print("bad", file=sys.stderr)
    print("after")
    assert output.take() == ["one", "two and more", "bad"] and output.take() == []
    assert capsys.readouterr() == ("one\ntwo and more\nafter\n", "bad\n")
