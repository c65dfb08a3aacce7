"""A home that nothing has made yet, and commands that have to be refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recallfront.__main__ import run

Refused = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the default home would be made here
    for name in ("RECALLFRONT_HOME", "RECALLFRONT_TRACKING_URI", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def refuse(*arguments: str) -> str:
        """Run a command that has to be refused -> its one line."""
        assert run(list(arguments)) == 2
        error = capsys.readouterr().err
        assert error.startswith("recallfront: ") and error.count("\n") == 1, error
        return error

    return refuse
