"""Commands whose store, server, cluster or home cannot be used: one clear line, exit code 2, and nothing made."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.store import prepare_store
from tests.commands.conftest import Refused
from tests.platform.stores import ready_store


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "command",
    [
        ("front", "tiny"),
        ("pick", "tiny"),
        ("claims", "tiny"),
        ("report", "tiny", "--out", "report"),
        ("status",),
        ("status", "tiny"),
        ("cancel", "tiny"),
        ("rerun", "abcdef1"),
        ("lineage", "abcdef1"),
    ],
    ids=" ".join,
)
def test_reading_where_there_is_no_store_makes_none(
    command: tuple[str, ...], refused: Refused, home: Path
) -> None:
    message = refused(*command, "--home", str(home))
    assert f"there is no MLflow store at {home / 'mlflow.db'}: run a sweep first" in message
    refused(*command)
    refused(*command, "--tracking-uri", f"sqlite:///{home}/other.db")
    assert list(home.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("front", "nosuch"), "there is no sweep 'nosuch' in"),
        (("pick", "nosuch"), "there is no sweep 'nosuch' in"),
        (("status", "nosuch"), "there is no sweep 'nosuch' in"),
        (("cancel", "nosuch"), "there is no sweep 'nosuch' in"),
        (("logs", "nosuch"), "there is no sweep 'nosuch' in"),
        (("delete", "nosuch"), "there is no sweep 'nosuch' in"),
        (("rerun", "abcdef12"), "there is no run 'abcdef12' in"),
        (("lineage", "abcdef12"), "there is no run 'abcdef12' in"),
        (
            ("rerun", "best"),
            "run 'best' is not a run id or trial key: give at least 6 of its first hex digits",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_sweeps_and_runs(command: tuple[str, ...], told: str, refused: Refused, home: Path) -> None:
    uri = ready_store(home)
    assert told in refused(*command, "--home", str(home))
    assert [e.name for e in open_client(uri).search_experiments()] == ["Default"], "and no run is made"
    assert not (home / "trials").exists() and not (home / "reruns").exists()


@pytest.mark.parametrize(
    "command", [("run", "quickstart"), ("front", "x"), ("rerun", "abcdef1"), ("status",)], ids=" ".join
)
def test_a_tracking_server_that_is_not_there(command: tuple[str, ...], refused: Refused, home: Path) -> None:
    uri = f"http://{nobody()}"
    message = refused(*command, "--tracking-uri", uri, "--home", str(home))
    assert f"the MLflow server at '{uri}' does not answer" in message and "refused" in message
    assert not home.exists()


@pytest.mark.slow
def test_a_tracking_server_that_says_nothing(refused: Refused, silent: str, home: Path) -> None:
    start = time.monotonic()
    assert "does not answer" in refused(
        "run", "quickstart", "--tracking-uri", f"http://{silent}", "--home", str(home)
    )
    assert time.monotonic() - start < 30 and not home.exists()


@pytest.mark.parametrize("uri", ["ftp://x", "postgresql://u@h/d", "nonsense", "http://", ""])
def test_a_tracking_uri_that_is_none(uri: str, refused: Refused, home: Path) -> None:
    assert f"tracking URI {uri!r}" in refused("run", "quickstart", "--tracking-uri", uri, "--home", str(home))
    assert not home.exists()


@pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:1", "postgresql://me:secret@h/d"])
def test_a_password_in_a_tracking_uri_is_refused_and_not_printed(
    uri: str, refused: Refused, home: Path
) -> None:
    commands = [("run", "quickstart"), ("submit", "quickstart", "--address", "http://127.0.0.1:1")]
    for command in commands:
        message = refused(*command, "--tracking-uri", uri, "--home", str(home))
        assert "has a password in it" in message and "MLFLOW_TRACKING_PASSWORD" in message
        assert "secret" not in message
    assert not home.exists()


def test_the_variables_of_mlflow_and_ray_are_obeyed(
    refused: Refused, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "address '127.0.0.1:1': no Ray cluster answers there" in refused(
        "run", "quickstart", "--home", str(home)
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert "the MLflow server at 'http://127.0.0.1:1' does not answer" in refused(
        "front", "x", "--home", str(home)
    )
    with pytest.raises(UsageError, match="http://127.0.0.1:1"):
        prepare_store(None, home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(UsageError, match="'databricks' is not supported: .* MLFLOW_TRACKING_URI names it"):
        prepare_store(None, home)
    monkeypatch.setenv("RECALLFRONT_TRACKING_URI", "http://127.0.0.1:2")
    assert "127.0.0.1:2" in refused("front", "x", "--home", str(home)), "our own comes first"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:3")
    assert "127.0.0.1:3" in refused("submit", "quickstart")
    assert not home.exists()


def test_a_cluster_that_is_not_there(refused: Refused, home: Path) -> None:
    for address in (nobody(), "head", "head:x", ""):
        message = refused("run", "quickstart", "--address", address, "--home", str(home))
        assert f"address '{address}': no Ray cluster answers there" in message and "HOST:PORT" in message
    assert not home.exists()


@pytest.mark.slow
def test_something_else_where_a_cluster_should_be(refused: Refused, silent: str, home: Path) -> None:
    start = time.monotonic()
    message = refused("run", "quickstart", "--address", silent, "--home", str(home))
    assert f"address '{silent}': no Ray cluster answers there (timed out)" in message
    assert time.monotonic() - start < 30 and not home.exists()


def test_a_dashboard_that_is_not_there(refused: Refused, home: Path) -> None:
    address = f"http://{nobody()}"
    options = ("--address", address, "--tracking-uri", "http://127.0.0.1:1")
    assert f"address '{address}': no Ray dashboard answers there" in refused("submit", "quickstart", *options)
    assert "must be the cluster's dashboard, such as" in refused("status", "--address", "head:8265")
    assert f"address '{address}'" in refused("status", "--address", address)
    assert list(home.parent.iterdir()) == []


def test_a_home_that_cannot_be_made(refused: Refused, home: Path) -> None:
    home.write_text("a file")
    assert str(home) in refused("run", "quickstart", "--home", str(home / "inside"))


def test_a_home_that_is_a_link_to_itself(refused: Refused, home: Path) -> None:
    home.symlink_to(home)
    told = f"home '{home}': is a symbolic link to itself"
    assert told in refused("run", "quickstart", "--home", str(home))
    assert told in refused("status", "--home", str(home))
