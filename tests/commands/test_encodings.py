"""Terminals and pipes that are not UTF-8, and locales that the machine does not have."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_store
from tests.platform.sweep.stage import WINDOWS, Stage

_SET = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONIOENCODING", "PYTHONUTF8", "RECALLFRONT_TRACKING_URI")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a sweep that has a front."""
    home = tmp_path_factory.mktemp("encodings")
    uri = ready_store(home)
    with closing(TrackingWriter(uri, home / "spool.sqlite")) as writer:
        sweep = Stage(tiny_spec(space=WINDOWS), home, writer, uri)
        for name in "ab":
            sweep.start(name)
            sweep.end(name)
        sweep.stored()
    return home


@pytest.mark.parametrize(
    ("setting", "encoding", "mark"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "ascii", "?"),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1", "?"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii", "?"),
        ({"LC_ALL": "xx_XX.UTF-8"}, "utf-8", "●"),
    ],
    ids=["ascii", "latin-1", "C", "unknown locale"],
)
def test_a_front_is_printed_in_any_encoding(
    setting: dict[str, str], encoding: str, mark: str, home: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _SET}
    command = [sys.executable, "-m", "recallfront", "front", "tiny", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, env=environment | setting)
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"{mark} surely on the front" in done.stdout.decode(encoding)
