"""Where Ray keeps its sockets."""

import tempfile

import pytest

from recallfront.platform.cluster.connection import _temporary_folder, ray_cluster
from recallfront.platform.errors import UsageError


def test_sockets_of_ray_are_found_a_shorter_folder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Batch systems give jobs a long TMPDIR; the names of sockets have at most 107 characters."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/scratch/" + 30 * "j")
    assert _temporary_folder() is None
    monkeypatch.setattr("tempfile.tempdir", "/scratch/" + 31 * "j")
    assert _temporary_folder() == "/tmp/ray" and "TMPDIR is too long" in caplog.text
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/" + 70 * "j")
    with pytest.raises(UsageError, match="RAY_TMPDIR .* is too long .* a folder of at most 39 characters"):
        _temporary_folder()


def test_a_ray_that_does_not_start_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that is so busy that Ray gives up: here its folder cannot be made."""
    told = r"Ray does not start on this machine \(.*see the logs below"
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        monkeypatch.setenv("RAY_TMPDIR", file.name)
        with pytest.raises(UsageError, match=told), ray_cluster(None):
            pass
