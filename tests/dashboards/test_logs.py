"""The ends of failed trials' logs."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recallfront.dashboards.logs import log_ends
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.platform.sweep import log_ends as log_ends_module
from recallfront.platform.sweep.log import SweepLog, log_path
from recallfront.platform.sweep.log_ends import last_lines
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_artifact, read_sweep
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


class Counted(io.BytesIO):
    """A file that knows how many bytes of it were read."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.taken += len(found)
        return found


def test_a_long_log_is_read_from_its_end_and_no_further_than_needed(tmp_path: Path) -> None:
    log = SweepLog(tmp_path / "long.log")
    log.write("begins: early", "aaaaaaaaaaaa")
    log.write("\n".join("x" * 100 for _ in range(20_000)), "bbbbbbbbbbbb")
    log.write("begins: late\nit fails ü", "cccccccccccc")
    log.write("\n".join("y" * 100 for _ in range(5_000)), "bbbbbbbbbbbb")
    whole = log.path.read_bytes()
    file = Counted(whole)
    assert log_ends_module._found(file, ["cccccccccccc"], 30) == {
        "cccccccccccc": ["begins: late", "it fails ü"]
    }
    assert file.taken < len(whole) / 3
    every = log_ends_module._found(Counted(whole), ["aaaaaaaaaaaa", "cccccccccccc", "dddddddddddd"], 1)
    assert every == {"aaaaaaaaaaaa": ["begins: early"], "cccccccccccc": ["it fails ü"]}
    assert [*log_ends_module._backwards(Counted(whole))][::-1] == [*whole.decode().splitlines(), ""]
    long = Counted(b"z" * (20 * 2**20))
    assert log_ends_module._found(long, ["aaaaaaaaaaaa"], 30) == {} and long.taken == 16 * 2**20


def test_a_copy_of_a_server_is_fetched_once_for_some_time(
    make_record: Callable[..., SweepRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = ready_store(tmp_path / "home")
    run = write(make_record(1, (Status.LOST,)), uri, "finished")
    client, fetched = open_client(uri), list[str]()
    trial = read_sweep(uri, run).trials[-1]

    def read(*asked: Any) -> str | None:
        fetched.append(asked[1])
        return read_artifact(*asked)

    monkeypatch.setattr(log_ends_module, "read_artifact", read)
    key = trial.trial_key[:12]
    client.log_text(run, f"2026-01-01 00:00:00  {key}  it is lost\n", "log.txt")
    for _ in range(3):
        found = last_lines(run, [key], 30, home=tmp_path / "elsewhere", tracking_uri=uri)
        assert found == {key: ["it is lost"]}
    assert fetched == [run]


def damaged_file(folder: Path) -> Path:
    path = folder / "traceback.txt"
    path.write_bytes(b"\xff\xfe\x00 no text")
    return path
