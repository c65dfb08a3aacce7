"""Where the home is, as a shell's user expects."""

from pathlib import Path

import pytest

from recallfront.__main__ import run
from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder


def test_a_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder("~/x") == tmp_path / "x"
    assert home_folder(Path("~/x")) == tmp_path / "x"
    monkeypatch.setenv("RECALLFRONT_HOME", "~/y")
    assert home_folder() == tmp_path / "y"
    with pytest.raises(UsageError, match="there is no such user"):
        home_folder("~nobody-of-that-name/x")


@pytest.mark.parametrize("home", ["s3://bucket/x", "gs://b", "file:///x", "hdfs://h/x", "dbfs:/x"])
def test_an_address_is_no_home(home: str) -> None:
    for given in (home, Path(home)):
        with pytest.raises(UsageError, match="object stores are not supported"):
            home_folder(given)


def test_an_empty_home_scatters_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["status", "--home", ""]) == 2
    assert "--home" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert run(["status", "--home=s3://bucket/x"]) == 2
    assert "object stores are not supported" in capsys.readouterr().err and not list(tmp_path.iterdir())
