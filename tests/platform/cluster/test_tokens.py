"""The token of a Ray that is started here, where its place, the home directory, cannot be written to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recallfront.platform.cluster.tokens import ensure_token

_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_DRIVER = """
import os, ray
from recallfront.platform.cluster.connection import ray_cluster
with ray_cluster(None):
    there = ray.get(ray.remote(lambda: [os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")]).remote())
    print(there == ["token", os.environ["RAY_AUTH_TOKEN"]], len(there[1]))
"""


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory in which nothing can be made, not even by root."""
    home = tmp_path / "file"
    home.touch()
    monkeypatch.setenv("HOME", str(home))
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.mark.slow
def test_ray_starts_with_a_token_where_none_can_be_kept(no_home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _DRIVER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True 64\n"), done.stderr


def test_a_token_is_made_only_where_ray_needs_one_and_cannot_keep_it(
    no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("of the file")
    settings = {
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": "disabled",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    for name, value in settings.items():
        with monkeypatch.context() as setting:
            setting.setenv(name, value)
            ensure_token()
            assert "RAY_AUTH_TOKEN" not in os.environ, name
    monkeypatch.setenv("RAY_AUTH_TOKEN", "one's own")
    ensure_token()
    assert os.environ["RAY_AUTH_TOKEN"] == "one's own"
