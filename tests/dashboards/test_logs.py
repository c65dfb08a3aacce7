"""The ends of failed trials' logs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recallfront.dashboards.logs import log_ends
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.log import SweepLog, log_path
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from tests.dashboards.served import write
from tests.platform.stores import ready_store

pytestmark = [
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def test_each_failed_trial_shows_its_traceback_or_what_it_printed(
    make_record: Callable[..., SweepRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECALLFRONT_HOME", str(tmp_path))
    uri = ready_store(tmp_path)
    failed = (Status.ERROR, Status.ERROR, Status.DIVERGED, Status.LOST, Status.TIMEOUT, Status.OUT_OF_MEMORY)
    run = write(make_record(1, failed), uri, "finished")
    record = read_sweep(uri, run)
    finished, told, damaged, *others = record.trials
    open_client(uri).log_artifact(damaged.run_id, str(damaged_file(tmp_path)))
    assert set(log_ends(uri, run, record.trials)) == {told.run_id}, "there is no log yet"
    log = SweepLog(log_path(record.sweep_key, tmp_path))
    log.write("the sweep begins")
    for trial in record.trials[:-1]:
        log.write("\n".join(f"{trial.status} line {number}" for number in range(50)), trial.trial_key)
    ends = log_ends(uri, run, record.trials)
    assert set(ends) == {trial.run_id for trial in (told, damaged, *others[:-1])}
    assert ends[told.run_id].endswith("RuntimeError: the end")
    for trial in (damaged, *others[:-1]):
        assert ends[trial.run_id].splitlines() == [f"{trial.status} line {n}" for n in range(20, 50)]


def damaged_file(folder: Path) -> Path:
    path = folder / "traceback.txt"
    path.write_bytes(b"\xff\xfe\x00 no text")
    return path
