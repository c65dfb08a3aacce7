"""The figures of a finished trial have a digest: one that changes in the store is noticed, and made right."""

import logging
import math
import sqlite3
import struct
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from recallfront.platform.results.records import TAG, TrialRecord
from recallfront.platform.results.reports import Report, now_ms
from recallfront.platform.results.status import Status
from recallfront.platform.tracking import ledger
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.digests import FIGURES, are_whole, figures_tag, with_figures
from recallfront.platform.tracking.ledger import find_run, read_trials, reading
from recallfront.platform.tracking.places import sqlite_path
from recallfront.platform.tracking.runs import write_end
from recallfront.platform.tracking.sqlite import SqliteReader
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.stores import ready_store
from tests.platform.tracking.conftest import WAIT, history

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own

KEY: Final = "ab" * 32
MEASURED: Final = {
    "recall": 0.1 + 0.2,
    "state_bytes": 4096.0,
    "odd": math.nan,
    "none": -0.0,
    "most": math.inf,
}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return ready_store(tmp_path)


def ended(**changes: Any) -> Report:
    """The last report of a trial of 20 steps."""
    rows = [("loss", 1.0 / step, step, now_ms()) for step in (10, 20)]
    rows.append(("validation_recall", 0.25, 20, now_ms()))
    figures = MEASURED | {"validation_recall": 0.25}
    return replace(Report(step=20, rows=rows, figures=figures, status=Status.FINISHED), **changes)


def told(writer: TrackingWriter, report: Report, key: str = "trial", *, parent: str | None = None) -> str:
    """Open the trial's run, be it there or not, and tell how it ended -> its id."""
    tags = {TAG + "kind": "trial", TAG + "trial_key": KEY, TAG + "status": "running", TAG + "config": "{}"}
    writer.open_run(key, experiment="study", name=key, parent_key=parent, tags=tags)
    write_end(writer, key, report)
    assert writer.flush(WAIT) and writer.rejected() == 0
    return str(writer.run_id(key))


def damaged_sweep(uri: str, writer: TrackingWriter, trials: int) -> tuple[str, list[str]]:
    """The run of a sweep, and those of its trials, each with a figure that has changed."""
    writer.open_run("sweep", experiment="study", name="sweep")
    runs = [told(writer, ended(), f"trial {number}", parent="sweep") for number in range(trials)]
    for run_id in runs:
        flip(uri, run_id, "recall", 0)
    return str(writer.run_id("sweep")), runs


class CountingReader(SqliteReader):
    """A reader that counts what it is asked for."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, Path(str(sqlite_path(uri))))
        self.asked = Counter[str]()

    def get_run(self, run_id: str) -> Any:
        self.asked["run"] += 1
        return super().get_run(run_id)

    def search_runs(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["search"] += 1
        return super().search_runs(*args, **kwargs)


def flip(uri: str, run_id: str, name: str, bit: int) -> None:
    """Change one bit of a figure that the store has."""
    with closing(sqlite3.connect(str(sqlite_path(uri)))) as store, store:
        own = "WHERE run_uuid = ? AND key = ?"
        ((value,),) = store.execute(f"SELECT value FROM latest_metrics {own}", (run_id, name))
        (whole,) = struct.unpack(">q", struct.pack(">d", value))
        (other,) = struct.unpack(">d", struct.pack(">q", whole ^ 1 << bit))
        assert other != value
        store.execute(f"UPDATE latest_metrics SET value = ? {own}", (other, run_id, name))


def is_whole(trial: TrialRecord) -> bool:
    return trial.status is Status.FINISHED and {**trial.metrics, "odd": 0.0} == {
        "loss": 0.05,
        "validation_recall": 0.25,
        **MEASURED,
        "odd": 0.0,
    }


@pytest.mark.parametrize(("name", "bit"), [("recall", 0), ("recall", 51), ("state_bytes", 52)])
def test_a_figure_that_has_changed_is_left_out_in_one_sentence_until_it_is_told_again(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, bit: int
) -> None:
    for number in (1, 2):  # the second driver has another spool, and knows no more than the store
        with closing(TrackingWriter(uri, tmp_path / f"spool-{number}.db")) as writer:
            run_id = told(writer, ended())
        caplog.clear()
        assert is_whole(find_run(uri, run_id)) and not caplog.messages
        flip(uri, run_id, name, bit)
        with caplog.at_level(logging.WARNING):
            damaged = find_run(uri, run_id)
        assert (damaged.status, damaged.metrics) == (Status.LOST, {})
        (sentence,) = caplog.messages
        assert sentence == damaged.failure
        assert sentence.startswith(f"run {run_id} is damaged: its figures do not match")
        assert "recallfront.figures_sha256" in sentence
    # and the same driver, whose spool knows the steps
    with closing(TrackingWriter(uri, tmp_path / "spool-2.db")) as writer:
        assert told(writer, ended()) == run_id
    assert is_whole(find_run(uri, run_id))


def test_a_figure_that_is_no_number_any_more_is_noticed_as_well(uri: str, tmp_path: Path) -> None:
    """The highest bit of the exponent makes it NaN, which SQLite reads as NULL."""
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        run_id = told(writer, ended(figures={"recall": 0.5, "factor": 1.1}))
    with closing(sqlite3.connect(str(sqlite_path(uri)))) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database = Path(str(sqlite_path(uri)))
    content, whole = database.read_bytes(), struct.pack(">d", 1.1)
    assert content.count(whole) >= 2
    database.write_bytes(content.replace(whole, bytes([whole[0] ^ 1 << 6]) + whole[1:]))
    assert find_run(uri, run_id).status is Status.LOST


def test_a_value_is_told_once_and_the_last_attempt_s_are_those_of_the_trial(
    uri: str, writer: TrackingWriter
) -> None:
    told(writer, ended(rows=[], figures={"recall": 0.5, "spare": 1.0}, status=Status.LOST))
    run_id = told(writer, ended())
    assert find_run(uri, run_id).metrics["recall"] == MEASURED["recall"]
    for name in ("validation_recall", "state_bytes"):
        assert len(history(uri, run_id, name)) == 1
    assert history(uri, run_id, "loss") == [(10, 0.1), (20, 0.05)]


def test_what_a_run_gets_later_is_none_of_its_digest(uri: str, writer: TrackingWriter) -> None:
    run_id = told(writer, ended())
    client = open_client(uri)
    for name in ("recall_suite_2048_mean", "by_hand"):
        client.log_metric(run_id, name, 0.5)
    assert find_run(uri, run_id).status is Status.FINISHED
    assert find_run(uri, run_id).metrics["recall_suite_2048_mean"] == 0.5


def test_figures_whose_digest_is_just_being_stored_are_those_of_the_trial(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow stores the tags of a request after its metrics."""
    run_id, client = told(writer, ended()), open_client(uri)
    again = with_figures(find_run(uri, run_id), {"state_bytes": 2048.0})
    client.log_metric(run_id, "state_bytes", 2048.0, step=21)

    def the_rest_is_stored(seconds: float) -> None:
        client.set_tag(run_id, TAG + FIGURES, again.tags[FIGURES])

    monkeypatch.setattr(ledger, "time", SimpleNamespace(sleep=the_rest_is_stored))
    found = find_run(uri, run_id)
    assert (found.status, found.metrics["state_bytes"]) == (Status.FINISHED, 2048.0)
    assert "is damaged" not in caplog.text


def test_damaged_runs_are_waited_for_once_whatever_their_number(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is read again and again asks for no run by itself, and waits only for what is new to it."""
    sweep, runs = damaged_sweep(uri, writer, 3)
    waits = list[float]()
    monkeypatch.setattr(ledger, "time", SimpleNamespace(sleep=waits.append))
    with closing(CountingReader(uri)) as reader:

        def read() -> Counter[str]:
            """Read the sweep, whose trials are all damaged -> what that asks for."""
            reader.asked.clear()
            trials = read_trials(reader, sweep)
            assert [(trial.run_id, trial.status) for trial in trials] == [(r, Status.LOST) for r in runs]
            return +reader.asked

        once, twice = Counter(run=1, search=1), Counter(run=1, search=2)  # the sweep's own run in any case
        assert (read(), len(waits)) == (twice, 1)
        assert (read(), len(waits)) == (once, 1)
        runs.append(told(writer, ended(), "new", parent="sweep"))
        flip(uri, runs[-1], "recall", 0)
        assert (read(), len(waits)) == (twice, 2)
        assert (read(), len(waits)) == (once, 2)


def test_a_damaged_run_that_is_deleted_as_it_is_waited_for_is_left_out(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, runs = damaged_sweep(uri, writer, 2)

    def is_deleted_for_good(seconds: float) -> None:
        with closing(sqlite3.connect(str(sqlite_path(uri)))) as store, store:
            store.execute("DELETE FROM runs WHERE run_uuid = ?", (runs[0],))

    monkeypatch.setattr(ledger, "time", SimpleNamespace(sleep=is_deleted_for_good))
    with reading(uri) as client:
        assert [trial.run_id for trial in read_trials(client, sweep)] == runs[1:]


def test_a_run_of_an_earlier_version_is_taken_as_it_is(uri: str, writer: TrackingWriter) -> None:
    run_id = told(writer, ended())
    open_client(uri).delete_tag(run_id, TAG + FIGURES)
    flip(uri, run_id, "recall", 0)
    assert find_run(uri, run_id).status is Status.FINISHED


def test_names_that_do_not_fit_a_tag_or_that_mlflow_refuses_are_none_of_it() -> None:
    figures = {f"recall_of_the_slice_{'x' * 60}_{number}": 0.5 for number in range(200)} | {
        "recall": 0.5,
        "a,b": 1.0,
    }
    tag = figures_tag(figures)
    assert len(tag) < 7000 and are_whole(figures, tag) and not are_whole(figures | {"recall": 0.25}, tag)
    assert are_whole({name: value for name, value in figures.items() if name != "a,b"}, tag)
    assert not are_whole({}, tag) and not are_whole(figures, tag.replace("recall,", "recaln,"))
    assert are_whole({}, figures_tag({}))
