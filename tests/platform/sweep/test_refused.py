"""What only a sweep that begins is refused for: one that an earlier version began is read and resumed."""

from contextlib import closing
from pathlib import Path

import pytest

from recallfront.platform.lineage.environment import collect
from recallfront.platform.sweep import run
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.sweep.suite import run_suite
from recallfront.platform.tracking.ledger import list_sweeps
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps import SpecError
from recallfront.sweeps.suite import Part, Suite
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_store

SHARED = tiny_spec(measurement={"batch_size": "max"}, resources={"gpus": 0.5})


def test_a_largest_batch_on_a_share_of_a_gpu_begins_no_more_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "check_resources", lambda _: None)  # this machine may have no GPU
    store = ready_store(tmp_path)
    why = r"^sweep tiny: measurement.batch_size='max': with resources.gpus=0.5 it needs measurement.memory_gb"
    with pytest.raises(SpecError, match=why):
        run.run_sweep(SHARED, home=tmp_path, tracking_uri=store)
    with closing(TrackingWriter(store, tmp_path / "spool.sqlite")) as writer:
        begun = Recorder(writer, SHARED, lineage=collect(tmp_path), data=(tmp_path / "data", "d" * 64))
        begun.open_sweep()
        assert writer.flush(30.0)
    run.check_new(SHARED, store)
    tiny_spec(measurement={"batch_size": "max", "memory_gb": 2}, resources={"gpus": 0.5}).check_new()


def test_a_suite_is_refused_before_its_first_sweep_runs(tmp_path: Path) -> None:
    store = ready_store(tmp_path)
    suite = Suite("both", (Part("one", tiny_spec(name="first")), Part("two", SHARED)))
    with pytest.raises(SpecError, match=r"^sweep tiny: measurement.batch_size='max'"):
        run_suite(suite, home=tmp_path, tracking_uri=store)
    assert list_sweeps(store) == []
