"""A SQLite store with a writer in this process, and what a run in it holds."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter

NOW = 1_700_000_000_000
WAIT = 60.0  # seconds; never reached when all is well


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepare_store(None, tmp_path_factory.mktemp("home"))


@pytest.fixture
def writer(uri: str, tmp_path: Path) -> Iterator[TrackingWriter]:
    with closing(TrackingWriter(uri, tmp_path / "spool" / "spool.db")) as writer:
        yield writer


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in open_client(uri).get_metric_history(run_id, key)]


def opened(writer: TrackingWriter, run_key: str) -> str:
    writer.open_run(run_key, experiment="study", name=run_key)
    run_id = writer.run_id(run_key, WAIT)
    assert run_id is not None
    return run_id
