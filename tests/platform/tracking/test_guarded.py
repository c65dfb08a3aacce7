"""An MLflow server behind TLS and a password: a sweep is recorded and read, and the secrets stay where they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from recallfront.platform import front, pick, run_sweep
from recallfront.platform.errors import UsageError
from recallfront.platform.results.status import Status
from tests.platform.guard import Guard
from tests.platform.planted import SECRETS, holding
from tests.platform.servers import MlflowServer
from tests.platform.specs import tiny_spec

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
