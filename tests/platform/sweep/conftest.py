"""A stage for the tests of a sweep without Ray."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_store
from tests.platform.sweep.stage import WINDOWS, Stage, Stages


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stages]:
    uri = ready_store(tmp_path)
    with closing(TrackingWriter(uri, tmp_path / "spool.sqlite")) as writer:
        yield lambda **changes: Stage(tiny_spec(**{"space": WINDOWS} | changes), tmp_path, writer, uri)
