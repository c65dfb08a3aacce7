"""Whole sweeps whose home is at an address, and who may drive them."""

import errno
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from recallfront.benchmarks.platform.trials import small_ray
from recallfront.platform import run_sweep
from recallfront.platform.errors import UsageError
from recallfront.platform.front.pick import pick
from recallfront.platform.front.registry import export_model
from recallfront.platform.home import home_folder, merge_lines, vault
from recallfront.platform.home.address import address_behind
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.platform.sweep import lease
from recallfront.platform.sweep.lease import Lease, is_silent
from recallfront.platform.sweep.lock import driver_is_gone
from recallfront.platform.sweep.mirror import Mirror
from recallfront.platform.sweep.remains import remains, remove
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from tests.platform.home.s3 import BUCKET, ENVIRONMENT, S3Server
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_store
from tests.platform.sweeps import wait_for

HOME = f"s3://{BUCKET}/sweeps"
SPEC = tiny_spec(space=[{"architecture": "window", "window_size": [4, 8]}], concurrent=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """S3 that fails now and then, and a Ray whose workers have a folder of their own."""
    with pytest.MonkeyPatch.context() as patched, S3Server(failing=0.1) as server:
        patched.setenv("RECALLFRONT_STATE", str(tmp_path_factory.mktemp("node")))
        vault._transport.cache_clear()
        with small_ray():
            yield server
    vault._transport.cache_clear()


@pytest.mark.slow
def test_a_sweep_on_s3_is_gone_on_with_from_anywhere(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 fails in a tenth of requests, and is away for a while; then other machines see the sweep."""

    def elsewhere(name: str) -> None:
        monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / name))

    elsewhere("first")
    uri = ready_store(tmp_path / "mlflow")
    # some seconds, as long as a driver and a trial wait between so many attempts
    server.outage = range(server.requests + 30, server.requests + 36)
    first = run_sweep(SPEC, home=HOME, tracking_uri=uri)
    print(f"{server.requests} requests, {server.failed} of them failed")
    assert server.requests > server.outage.stop
    assert (first.ran, first.answered) == (2, 0) and server.failed > 5
    assert {trial.status for trial in first.record.trials} == {Status.FINISHED}

    elsewhere("second")
    picked = pick(SPEC.name, tracking_uri=uri)
    exported = export_model(picked, tmp_path / "model", home=HOME, tracking_uri=uri)
    assert all(file.stat().st_size for file in exported.values())

    # a driver that has lost the records learns of S3 how each trial ended, and nothing is trained again
    elsewhere("third")
    other = ready_store(tmp_path / "other")
    third = run_sweep(SPEC, home=HOME, tracking_uri=other)
    assert third.ran == 2
    for store, again in zip(_losses(uri), _losses(other), strict=True):
        assert store == again
    for name in ("first", "second", "third", "mlflow", "other"):
        for file in (tmp_path / name).rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                assert not any(ENVIRONMENT[key].encode() in content for key in _SECRETS), file


_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def _losses(uri: str) -> list[tuple[str, list[tuple[int, float, int]]]]:
    """Of every trial its key and its losses, with the moments at which they were noted."""
    client = open_client(uri)
    return sorted(
        (
            trial.trial_key,
            sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(trial.run_id, "loss")),
        )
        for trial in read_sweep(uri, SPEC.key).trials
    )


def test_a_home_at_an_address_needs_a_named_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "state"))
    with pytest.raises(UsageError, match="name the MLflow store with --tracking-uri or MLFLOW_TRACKING_URI"):
        run_sweep(SPEC, home=(tmp_path / "store").as_uri())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, seconds in (("_BEAT_SECONDS", 0.05), ("WATCH_SECONDS", 1.0), ("_RACE_SECONDS", 0.01)):
        monkeypatch.setattr(lease, name, seconds)
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "state"))
    return home_folder((tmp_path / "store").as_uri())


def test_one_driver_of_all_machines(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = threading.Event()
    monkeypatch.setattr(lease, "end_driver", taken.set)  # not pytest's own process
    monkeypatch.setattr(lease, "WATCH_SECONDS", 10.0)  # a busy disk keeps the first from writing for a while
    path = home / "sweeps" / "x.driver"
    with Lease(path, "sweep x"):
        with (
            pytest.raises(UsageError, match=r"sweep x is being run by process \d+ of "),
            Lease(path, "sweep x"),
        ):
            pass
    with Lease(path, "sweep x"):
        assert vault.read_kept(path)
    assert vault.read_kept(path) is None and not taken.is_set()


def test_a_driver_that_is_gone_is_followed(home: Path) -> None:
    path = home / "sweeps" / "x.driver"
    path.parent.mkdir(parents=True)
    path.write_text('{"token": "of a driver that was killed", "beats": 7}')
    vault.keep_file(path)
    with Lease(path, "sweep x"):
        assert b"killed" not in (vault.read_kept(path) or b"")


def test_a_driver_that_was_killed_is_known_to_be_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "ab" * 32
    path = home / "sweeps" / f"{key[:16]}.driver"
    assert not driver_is_gone(key, home, None, patience=30), "it was never driven there"
    monkeypatch.setattr(lease, "WATCH_SECONDS", 100.0)
    with Lease(path, "sweep x"):
        assert not driver_is_gone(key, home, None, patience=30)
        killed = vault.read_kept(path)
    assert not driver_is_gone(key, home, None, patience=30), "it ended in order"
    assert killed is not None
    path.write_bytes(killed)
    vault.keep_file(path)
    path.unlink()
    assert not driver_is_gone(key, home, None), "this machine has not seen it for long enough"
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.1)
    assert driver_is_gone(key, home, None, patience=30)


@contextmanager
def handlers(interrupt: Any, terminate: Any) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, to) for number, to in zip(numbers, (interrupt, terminate), strict=True)]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("background", [False, True], ids=["terminal", "background"])
def test_a_driver_that_was_followed_ends(home: Path, background: bool) -> None:
    """Also one in a shell's background, where interrupts are ignored and a sweep takes SIGTERM for one."""
    path = home / "sweeps" / "x.driver"
    heard, ignored = signal.default_int_handler, signal.SIG_IGN
    with (
        handlers(*((ignored, heard) if background else (heard, ignored))),
        pytest.raises(KeyboardInterrupt),
        Lease(path, "sweep x"),
    ):
        path.write_text('{"token": "of another machine"}')
        vault.keep_file(path)
        assert not threading.Event().wait(30)


def test_what_a_driver_wrote_is_there_for_the_next(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended, replaced = Path("sweeps", "x"), Path("fronts", "x", "front")
    for folder, name in ((appended, "reports-1.jsonl"), (replaced, "front.json")):
        (home / folder).mkdir(parents=True)
        (home / folder / name).write_text("1\n")
    path = home / "sweeps" / "x.driver"
    with Lease(path, "x") as lease, Mirror(lease, home / appended, home / replaced):
        (home / appended / "reports-1.jsonl").write_text("1\n2\n")
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "elsewhere"))
    other = home_folder((tmp_path / "store").as_uri())
    (other / appended).mkdir(parents=True)
    (other / appended / "reports-1.jsonl").write_text("1\nof this machine, and longer\n")
    path = other / "sweeps" / "x.driver"
    with Lease(path, "x") as lease, Mirror(lease, other / appended, other / replaced):
        text = (other / appended / "reports-1.jsonl").read_text()
        assert text == "1\nof this machine, and longer\n2\n"
    assert (
        vault.fetch_folder(other / replaced) == [] and (other / replaced / "front.json").read_text() == "1\n"
    )


@pytest.mark.parametrize(
    ("own", "other", "merged"),
    [
        ("P\npruned\n", "P\npromoted\npruned\n", "P\npromoted\npruned\n"),
        ("a\nb\nlast\n", "a\nb\nelsewhere\n", "a\nb\nlast\nelsewhere\n"),
        ("a\na\n", "a\n", "a\na\n"),
        ("a\nha", "a\nb\n", "a\nha\nb\n"),
        ("", "a\n", "a\n"),
    ],
)
def test_lines_of_two_machines_stay_in_order(tmp_path: Path, own: str, other: str, merged: str) -> None:
    path = tmp_path / "lines"
    path.write_text(own)
    merge_lines(path, other)
    assert path.read_text() == merged


def test_a_driver_that_was_followed_keeps_nothing_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are older than what the one that followed it has kept."""
    monkeypatch.setattr(lease, "_BEAT_SECONDS", 30.0)  # no beat of it comes between
    path, appended, replaced = home / "sweeps" / "x.driver", home / "sweeps" / "x", home / "fronts" / "x"
    reports, front = appended / "reports-1.jsonl", replaced / "front.json"
    with handlers(signal.SIG_IGN, lambda *_: None):
        with Lease(path, "x") as own, Mirror(own, appended, replaced):
            for file in (reports, front):
                file.parent.mkdir(parents=True)
                file.write_text("of the successor")
            path.write_text('{"token": "of another machine"}')
            vault.keep_file(path)
            vault.keep_file(reports)
            vault.keep_folder(replaced)
            for file in (reports, front):
                file.write_text("stale")
    assert vault.read_kept(reports) == b"of the successor"
    assert vault.fetch_folder(replaced) == [] and front.read_text() == "of the successor"


def test_while_the_store_is_away_no_driver_is_silent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for who looks at the sweep nor for who wants to drive it: the driver goes on when the store is back."""
    path, store = home / "sweeps" / "x.driver", vault._transport(str(address_behind(home)))
    away, real = threading.Event(), store.read

    def read(name: str, *, patience: float = 600.0) -> bytes | None:
        give_up = time.monotonic() + patience
        while away.is_set():
            if time.monotonic() > give_up:
                raise HomeAway("the store does not answer")
            time.sleep(0.01)
        content = real(name, patience=patience)
        if threading.current_thread() is wants and not began.is_set():
            away.set()  # as soon as it has seen what it compares with
            began.set()
        return content

    refused: list[str | None] = []
    began, wants = threading.Event(), threading.Thread(target=lambda: refused.append(_refusal(path)))
    monkeypatch.setattr(store, "read", read)
    with Lease(path, "x"):
        wants.start()
        assert began.wait(30)
        time.sleep(1.5)  # longer than a driver may be silent
        monkeypatch.setattr(lease, "_BEAT_SECONDS", 0.3)  # its next beat is a while off
        away.clear()
        assert vault.read_kept(path) and not is_silent(path)
        wants.join(30)
        assert refused[0] is not None and "is being run by process" in refused[0]


def _refusal(path: Path) -> str | None:
    try:
        with Lease(path, "x"):
            return None
    except UsageError as error:
        return str(error)


def test_a_full_disk_does_not_end_a_driver_s_beats(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "sweeps" / "x.driver"
    with Lease(path, "x"):
        with monkeypatch.context() as patched:
            full = OSError(errno.ENOSPC, "No space left on device")
            patched.setattr(lease, "write_whole", Mock(side_effect=full))
            time.sleep(0.3)
        before = vault.read_kept(path)
        wait_for(lambda: vault.read_kept(path) != before, seconds=30)


def test_what_another_machine_kept_of_a_sweep_is_deleted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = SweepRecord(run_id="", sweep_key="ab" * 32, name="x", spec={}, trials=())
    names = (
        f"sweeps/{'ab' * 8}/reports-1.jsonl",
        f"fronts/x-{'ab' * 4}/front.json",
        "sweeps/cd/reports-1.jsonl",
    )
    for name in names:
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("1")
        vault.keep_file(home / name)
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "elsewhere"))
    other = home_folder((tmp_path / "store").as_uri())
    found = remains(record, other)
    assert found == [other / Path(name).parent for name in names[:2]]
    for path in found:
        remove(path)
    assert [name for name in names if vault.read_kept(other / name)] == [names[2]]
    assert remains(record, other) == []
