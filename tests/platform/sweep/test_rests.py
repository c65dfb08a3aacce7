"""When trials rest, as their runs tell it."""

from pathlib import Path

import pytest

from recallfront.platform.results.records import RESTS, TAG
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.rests import Rests
from recallfront.platform.tracking.ledger import read_sweep
from tests.dashboards.played import played
from tests.platform.stores import ready_store

pytestmark = [
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def test_a_trial_that_goes_on_tells_its_rests(tmp_path: Path) -> None:
    uri = ready_store(tmp_path)
    with played(tmp_path, uri, "resting") as sweep:
        plan, recorder = sweep.conductor.peek(), sweep.conductor.recorder
        assert plan is not None
        sweep.begin("a")
        (first,) = read_sweep(uri, sweep.run_id).trials
        assert RESTS not in first.tags
        for _ in range(2):
            recorder.report(plan.config.key, Report(step=10, status=Status.PRUNED))
            recorder.promoted(plan.config.key)
            recorder.open_trial(plan)
        sweep.tell()
        (trial,) = read_sweep(uri, sweep.run_id).trials
    told = trial.tags[RESTS].split()
    assert len(told) == 2
    # the next run of the sweep adds to them
    key = trial.trial_key
    later = Rests([trial])
    assert later.goes_on(key) == {}, "it was left running, and nobody knows since when it rests"
    later.ended(key)
    assert later.goes_on(key)[TAG + RESTS].split()[:2] == told
