"""An MLflow server behind TLS and a password: a sweep is recorded and read, and the secrets stay where they are."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform import front, pick, run_sweep
from recallfront.platform.errors import UsageError
from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.cancellation import BEAT
from recallfront.platform.results.status import Status
from recallfront.platform.sweep import beat
from recallfront.platform.sweep.beat import Beat
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.ledger import find_sweep
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.guard import Guard
from tests.platform.planted import SECRETS, holding
from tests.platform.servers import MlflowServer
from tests.platform.specs import tiny_spec
from tests.platform.sweeps import wait_for

USER, PASSWORD, CERTIFICATE = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    folder = tmp_path_factory.mktemp("guard")
    with (
        MlflowServer(folder / "server") as server,
        Guard(folder, server.port, SECRETS[USER], SECRETS[PASSWORD]) as guard,
    ):
        yield guard


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, guard: Guard) -> pytest.MonkeyPatch:
    """The environment of somebody whom the guard knows."""
    for name in (USER, PASSWORD):
        monkeypatch.setenv(name, SECRETS[name])
    monkeypatch.setenv(CERTIFICATE, str(guard.certificate))
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [(PASSWORD, "another", "401"), (CERTIFICATE, None, "CERTIFICATE_VERIFY_FAILED")],
)
def test_who_is_not_let_in_is_told_so_before_anything_is_computed(
    known: pytest.MonkeyPatch, guard: Guard, tmp_path: Path, name: str, value: str | None, told: str
) -> None:
    known.delenv(name)
    if value is not None:
        known.setenv(name, value)
    with pytest.raises(UsageError, match=told) as refused:
        run_sweep(tiny_spec(name="guarded"), home=tmp_path / "home", tracking_uri=guard.uri)
    assert "\n" not in str(refused.value) and SECRETS[USER] not in str(refused.value)
    assert not (tmp_path / "home" / "trials").exists()


def test_a_sweep_through_the_guard(known: pytest.MonkeyPatch, guard: Guard, tmp_path: Path) -> None:
    before = guard.answers[401]
    spec = tiny_spec(name="guarded", space=[{"architecture": "window", "window_size": 4}])
    result = run_sweep(spec, home=tmp_path / "home", tracking_uri=guard.uri)
    assert result.undelivered == 0
    (trial,) = result.record.trials
    assert trial.status is Status.FINISHED
    assert len(front("guarded", tracking_uri=guard.uri).candidates) == 1
    assert pick("guarded", tracking_uri=guard.uri).run_id == trial.run_id
    assert guard.answers[401] == before and guard.answers[200] > 10
    assert not holding(tmp_path), "user and password are in a file"


def test_a_beat_waits_for_no_upload_and_a_missed_one_is_told_once(
    known: pytest.MonkeyPatch, guard: Guard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known.setattr(beat, "BEAT_SECONDS", 0.1)
    spec, front = tiny_spec(name="held"), tmp_path / "front"
    front.mkdir()
    (front / "front.json").write_text("[]")

    def sign() -> str | None:
        return find_sweep(guard.uri, spec.key).tags.get(BEAT)

    def wait_for_beat() -> None:
        before = sign()
        wait_for(lambda: sign() != before, seconds=60)

    with closing(TrackingWriter(guard.uri, tmp_path / "spool.sqlite")) as writer:
        recorder = Recorder(
            writer, spec, lineage=collect(tmp_path), data=(tmp_path / "data" / "mqar", "d" * 64)
        )
        recorder.open_sweep()
        assert writer.flush(60.0)
        guard.is_quick.clear()
        recorder.front_files(front)
        assert guard.is_held.wait(60.0)
        with Beat(recorder, guard.uri):
            for _ in range(2):
                wait_for_beat()
            assert writer.backlog(), "the upload is still held"
            guard.is_quick.set()
            assert writer.flush(60.0)
            refused = guard.answers[401]
            known.setenv(PASSWORD, "another")
            wait_for(lambda: guard.answers[401] >= refused + 3, seconds=60)
            known.setenv(PASSWORD, SECRETS[PASSWORD])
            wait_for_beat()
    told = [line for line in caplog.messages if "the driver cannot tell the store that it lives" in line]
    assert len(told) == 1 and "401" in told[0]
