"""Cancelling: who may, what a request is, and what is left of a sweep that was cancelled."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from recallfront.platform.errors import UsageError
from recallfront.platform.results.cancellation import CancelRequest
from recallfront.platform.results.records import TAG
from recallfront.platform.results.status import Status
from recallfront.platform.status import sweeps_table
from recallfront.platform.sweep import cancelled
from recallfront.platform.sweep.cancel import cancel
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import UnknownRecord, read_sweep, reading
from recallfront.sweeps import SweepSpec
from tests.platform.specs import tiny
from tests.platform.stores import ready_home, ready_store
from tests.platform.sweep.stage import Stages
from tests.platform.sweeps import times_slower, wait_for

REQUEST = CancelRequest("d1", "ada@lab", 1.8e9)


def test_a_request_is_read_as_it_was_written() -> None:
    assert CancelRequest.read({"driver": "d1", "cancel": REQUEST.to_json()}) == REQUEST
    assert str(REQUEST).startswith("cancelled by ada@lab, 2027-01-1")


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"driver": "d1"},
        {"driver": "d2", "cancel": REQUEST.to_json()},
        {"cancel": REQUEST.to_json()},
        {"driver": "d1", "cancel": "[" * 9999},
        {"driver": "d1", "cancel": json.dumps({"driver": "d1", "by": "x", "at": 1e300})},
        {"driver": "d1", "cancel": json.dumps({"driver": "d1", "by": "x", "at": float("nan")})},
        {"driver": "d1", "cancel": json.dumps({"driver": "d1", "by": "x"})},
    ],
    ids=["none", "no request", "an earlier driver's", "no driver", "deep", "no date", "nan", "incomplete"],
)
def test_what_is_no_request_to_the_present_driver(tags: dict[str, str]) -> None:
    """So that a request that came too late never ends a later run of the sweep."""
    assert CancelRequest.read(tags) is None


@pytest.mark.parametrize(
    ("name", "tags", "says"),
    [
        ("nosuch", {}, "there is no sweep 'nosuch' in"),
        ("done", {"status": "finished"}, r"sweep done \(abcdef12\) does not run: it is finished"),
        ("done-abcdef12-1795848963", {"status": "finished"}, "does not run: it is finished"),
        ("done", {"status": "running"}, "is run by an earlier version"),
    ],
)
def test_what_cannot_be_cancelled_is_said(name: str, tags: dict[str, str], says: str, tmp_path: Path) -> None:
    uri = ready_store(tmp_path)
    client = open_client(uri)
    own = {"kind": "sweep", "sweep_key": "abcdef12" * 8} | tags
    client.create_run(client.create_experiment("done"), tags={TAG + key: value for key, value in own.items()})
    with pytest.raises(UsageError, match=says):
        cancel(name, home=tmp_path)


def test_a_look_for_a_request_that_fails_whatever_the_reason_is_told_once_and_tried_again(
    stage: Stages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep, missed = stage(), threading.Semaphore(0)
    recorder = sweep.conductor.recorder
    run_id = sweep.stored().run_id

    def fails(uri: str) -> None:
        missed.release()
        raise RuntimeError("no such backend")

    monkeypatch.setattr(cancelled, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(cancelled, "reading", fails)
    with cancelled.Cancellation(sweep.conductor, sweep.uri):
        for _ in range(3):
            assert missed.acquire(timeout=30.0)
        monkeypatch.setattr(cancelled, "reading", reading)
        request = CancelRequest(recorder.driver, "ada@lab", 1.8e9)
        open_client(sweep.uri).set_tag(run_id, f"{TAG}cancel", request.to_json())
        wait_for(lambda: sweep.conductor.cancellation == request)
    told = [line for line in caplog.messages if "cannot see whether it is asked to end" in line]
    assert len(told) == 1 and told[0].endswith("RuntimeError: no such backend")


@pytest.mark.slow
@pytest.mark.alone  # nothing of another Ray may come or go meanwhile
def test_a_sweep_is_cancelled_from_another_process_and_leaves_nothing_but_a_checkpoint(
    tmp_path: Path,
) -> None:
    spec = tiny(
        name="endless",
        space=[{"architecture": "window", "window_size": [2, 4, 8]}],
        training={"steps": 10**6, "evaluate_every": 50, "checkpoint_seconds": 10**6},
        concurrent=1,
    )
    file, home = tmp_path / "endless.yaml", ready_home(tmp_path / "home")
    file.write_text(yaml.safe_dump(spec))
    shared, key = set(os.listdir("/dev/shm")), SweepSpec.model_validate(spec).key
    command = [sys.executable, "-m", "recallfront", "run", str(file), "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as driver:
        try:
            wait_for(lambda: _trains(home, key), driver=driver, pause=0.2)
            started = _below(driver.pid)
            assert any("ray::" in " ".join(process.cmdline()) for process in started)
            began = time.monotonic()
            said = cancel("endless", home=home, by="ada@lab")
            _, errors = driver.communicate(timeout=120)
            took = time.monotonic() - began
        finally:
            driver.kill()
    assert said.startswith(f"sweep endless ({key[:8]}) is cancelled after"), said
    assert said.endswith("0 finished, 1 unfinished; run it again to resume it")
    assert driver.returncode == 130
    assert errors.startswith("recallfront: cancelled by ada@lab, 20"), errors
    assert took < 15.0 * times_slower(), f"{took:.1f} s"
    assert not psutil.wait_procs(started, timeout=20)[1]
    assert set(os.listdir("/dev/shm")) <= shared
    record = read_sweep(f"sqlite:///{home}/mlflow.db", key)
    (trial,) = record.trials
    assert record.tags["status"] == "interrupted" and trial.status is Status.LOST
    assert (trial.failure or "").startswith("the sweep was cancelled by ada@lab, ")
    assert list(home.glob("trials/*/checkpoint/digests.json")), "what ran was saved, though none was due"
    (shown,) = sweeps_table(home=home).columns[2].cells
    assert str(shown).startswith("cancelled by ada@lab, ")
    with pytest.raises(UsageError, match="does not run: it is interrupted"):
        cancel("endless", home=home)


def _trains(home: Path, key: str) -> bool:
    with contextlib.suppress(UnknownRecord):  # as long as it has not begun
        trials = read_sweep(f"sqlite:///{home}/mlflow.db", key).trials
        return any("loss" in trial.metrics for trial in trials)
    return False


def _below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)
