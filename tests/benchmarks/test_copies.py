"""A large sweep whose trials are copies: a reader tells it from a written one by nothing but its figures."""

from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.benchmarks.dashboards.copies import copy_sweep, fill_with_copies
from recallfront.benchmarks.dashboards.pages import pages_spec
from recallfront.benchmarks.platform.scale import synthetic_figures
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.curves import read_curves
from recallfront.platform.tracking.ledger import list_sweeps, read_sweep
from tests.platform.stores import ready_home

pytestmark = pytest.mark.slow


def test_copies_are_trials_of_their_own(tmp_path: Path) -> None:
    home = ready_home(tmp_path)
    spec, uri = pages_spec(40), f"sqlite:///{home / 'mlflow.db'}"
    run = fill_with_copies(home, spec, 40)
    record = read_sweep(uri, run)
    assert record.sweep_key == spec.key and len(record.trials) == 40
    assert {trial.status for trial in record.trials} == {Status.FINISHED}
    assert (
        len({trial.trial_key for trial in record.trials})
        == len({t.configuration for t in record.trials})
        == 40
    )
    for trial in record.trials:
        own = synthetic_figures(trial.trial_key)
        assert {name: trial.metrics[name] for name in own} == pytest.approx(own)
    written, copied = record.trials[0], record.trials[-1]
    assert replace(
        copied, run_id="", trial_key="", config={}, metrics={}, tags={}, start_time=0, end_time=None
    ) == (
        replace(written, run_id="", trial_key="", config={}, metrics={}, tags={}, start_time=0, end_time=None)
    )
    assert copied.start_time > written.start_time and copied.metrics.keys() == written.metrics.keys()

    # MLflow itself reads them, too
    known = open_client(uri).get_run(copied.run_id)
    assert known.data.params["training.learning_rate"] == str(copied.config["training"]["learning_rate"])
    curves = read_curves(uri, [copied.run_id, written.run_id], ["loss"])
    assert len(curves[copied.run_id]["loss"]) == len(curves[written.run_id]["loss"]) == 20


def test_a_sweep_that_needs_no_copies_has_none(tmp_path: Path) -> None:
    home = ready_home(tmp_path)
    run = fill_with_copies(home, pages_spec(4), 4)
    assert len(read_sweep(f"sqlite:///{home / 'mlflow.db'}", run).trials) == 4


def test_copies_of_a_sweep_are_sweeps_of_their_own(tmp_path: Path) -> None:
    home = ready_home(tmp_path)
    spec = pages_spec(4)
    copy_sweep(home, fill_with_copies(home, spec, 4), 4)
    found = list_sweeps(f"sqlite:///{home / 'mlflow.db'}")
    assert len({sweep.run_id for sweep in found}) == len({sweep.sweep_key for sweep in found}) == 5
    assert found[-1].sweep_key == spec.key, "the oldest is the one that a driver wrote"
    told = [sweep.tags | {"sweep_key": ""} for sweep in found]
    assert told == [told[0]] * 5 and told[0]["trials_finished"] == "4"
    assert [sweep.metrics for sweep in found] == [found[-1].metrics] * 5
