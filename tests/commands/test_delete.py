"""`recallfront delete`: it asks before it deletes, unless it is told not to."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from recallfront.__main__ import run
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import list_sweeps
from recallfront.platform.tracking.places import artifact_location
from tests.commands.conftest import Refused
from tests.platform.stores import ready_store


class Terminal(io.StringIO):
    """Someone who types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def sweeps(home: Path) -> Callable[[], list[str]]:
    """The names of the sweeps of the home's store, which has one."""
    uri = ready_store(home)
    client = open_client(uri)
    tags = {TAG + "kind": "sweep", TAG + "sweep_key": "ab" * 32, TAG + "status": "finished"}
    client.create_run(client.create_experiment("mine", artifact_location(uri, "mine")), tags=tags)
    return lambda: [sweep.name for sweep in list_sweeps(uri)]


def test_it_asks(
    sweeps: Callable[[], list[str]],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for answer, code, left in (("n\n", 130, ["mine"]), ("", 130, ["mine"]), ("y\n", 0, [])):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert run(["delete", "mine", "--home", str(home)]) == code
        assert "Delete them? [y/N]: " in capsys.readouterr().out and sweeps() == left


def test_without_a_terminal_it_is_told_not_to_ask(
    sweeps: Callable[[], list[str]], refused: Refused, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "no terminal to ask on: say --yes" in refused("delete", "mine", "--home", str(home))
    assert sweeps() == ["mine"]
    assert run(["delete", "mine", "--yes", "--home", str(home)]) == 0 and sweeps() == []
