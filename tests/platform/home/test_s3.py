"""A home on S3: against a real server that fails, is away, or refuses."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder, transport, vault
from recallfront.platform.home.upload import Upload
from tests.platform.home.s3 import BUCKET, S3Server
from tests.platform.sweeps import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: S3Server) -> Iterator[None]:
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "state"))
    # connections are of an environment
    vault._transport.cache_clear()
    yield
    server.failing = 0.0
    server.away.clear()
    server.silent.clear()
    vault._transport.cache_clear()


def test_a_home_that_cannot_be_used_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    vault.check_home(home_folder(f"s3://{BUCKET}/check"))
    with pytest.raises(
        UsageError, match="home 's3://nobody-made-it/x': there is no bucket 'nobody-made-it': make"
    ):
        vault.check_home(home_folder("s3://nobody-made-it/x"))
    vault._transport.cache_clear()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(UsageError, match="the store refuses .*credentials are read from the environment"):
        vault.check_home(home_folder(f"s3://{BUCKET}/x"))


def test_a_store_that_does_not_answer_is_refused(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_CHECK_PATIENCE", 0.0)
    server.away.set()
    with pytest.raises(
        UsageError, match="home 's3://bucket/x': the store does not answer as a store of objects"
    ):
        vault.check_home(home_folder(f"s3://{BUCKET}/x"))


def test_a_store_that_accepts_and_is_silent_holds_up_nothing(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are given up and made again: what waits is kept as soon as the store answers."""
    monkeypatch.setattr(transport, "_REQUEST_SECONDS", 1.0)
    path = home_folder(f"s3://{BUCKET}/silent") / "trials" / "t" / "checkpoint"
    path.mkdir(parents=True)
    (path / "part").write_bytes(b"1")
    upload, before = Upload(path), server.requests
    server.silent.set()
    began = time.monotonic()
    upload.offer(1)
    assert time.monotonic() - began < 20  # the store is silent for longer
    wait_for(lambda: server.requests > before + 3, seconds=60)
    assert not upload.finish(0.0)
    server.silent.clear()
    assert upload.finish(60) and upload.kept == 1
    upload.close()
    assert upload.notices == []


def test_a_tenth_of_failures_and_an_outage_lose_nothing(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Checkpoints are uploaded beside; what was the newest when the store came back is what another machine gets."""
    monkeypatch.setattr(transport, "_LONGEST_PAUSE", 0.5)
    server.failing = 0.1
    path = home_folder(f"s3://{BUCKET}/outage") / "trials" / "t" / "checkpoint"
    upload = Upload(path)
    offered = []
    for step in range(1, 7):
        if step == 3:
            server.away.set()
            failed = server.failed
        new = path.with_name("new")
        new.mkdir(parents=True)
        for number in range(4):
            (new / f"part-{number}").write_bytes(bytes([step]) * 20_000)
        new.rename(path)
        began = time.monotonic()
        upload.offer(step)
        offered.append(time.monotonic() - began)
        path.rename(path.with_name(f"old-{step}"))
        time.sleep(0.1)
    wait_for(lambda: server.failed > failed + 3)
    server.away.clear()
    assert upload.finish(300)
    upload.close()
    # offering is linking four files: no step waited for the store, which came back after the last one only
    assert max(offered) < 5.0
    assert upload.notices == []
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "elsewhere"))
    path = home_folder(f"s3://{BUCKET}/outage") / "trials" / "t" / "checkpoint"
    assert vault.fetch_folder(path) == []
    assert {file.read_bytes() for file in path.iterdir()} == {bytes([6]) * 20_000}
    assert len(vault.kept_folders(path)) == 1
    vault.forget(path)
    assert vault.kept_files(path) == {}
