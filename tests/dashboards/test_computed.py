"""What is computed once for all who look, and again as soon as a sweep has found more."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from recallfront.dashboards.compare_page import compared_with
from recallfront.dashboards.computed import Computed
from recallfront.dashboards.explore import Explorer
from recallfront.dashboards.views import view_of
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status

MakeRecord = Callable[..., SweepRecord]
CLAIM = {
    "id": "a",
    "sentence": "It learns.",
    "measures": {"m": "best recall"},
    "condition": "m > 0.5",
    "seeds": 1,
}


@pytest.fixture
def running(make_record: MakeRecord) -> SweepRecord:
    record = make_record(17, (Status.RUNNING,), tags={"status": "running", "trials_planned": "18"})
    return replace(record, spec=record.spec | {"claims": [CLAIM]})


def of_poll(record: SweepRecord) -> Explorer:
    """What a page's next look reads: the same sweep, whose records are new ones."""
    return Explorer(view_of(replace(record, trials=tuple(replace(trial) for trial in record.trials)), "7"))


def with_last(record: SweepRecord, status: Status, **metrics: float) -> SweepRecord:
    last = record.trials[-1]
    told = replace(last, status=status, metrics=last.metrics | metrics, end_time=last.start_time + 9)
    return replace(
        record, trials=(*record.trials[:-1], told if status.is_final else replace(told, end_time=None))
    )


def test_a_running_sweep_is_judged_and_drawn_again_when_a_trial_has_finished(running: SweepRecord) -> None:
    first, later = of_poll(running), of_poll(with_last(running, Status.RUNNING, validation_recall=0.3))
    assert later.view.judgements is first.view.judgements and later.history is first.history
    assert first.view.judgements[0].reason == "17 of 18 trials have ended"
    done = of_poll(with_last(running, Status.FINISHED, validation_recall=0.9, recall=0.9))
    assert done.view.judgements[0].reason == "" and len(done.history["data"][0]["y"]) == 18
    measured_again = of_poll(with_last(running, Status.FINISHED, validation_recall=0.7, recall=0.9))
    assert measured_again.history != done.history


def test_a_page_s_columns_are_made_once(running: SweepRecord) -> None:
    found = of_poll(running)
    assert found.to_json() is found.to_json()


def test_two_sweeps_are_compared_once(running: SweepRecord, record: SweepRecord) -> None:
    first = compared_with(record, running)
    assert compared_with(replace(record), with_last(running, Status.RUNNING, loss=1.0)) is first
    done = with_last(running, Status.FINISHED, validation_recall=0.9, recall=0.9)
    assert compared_with(record, done) is not first


def test_only_the_latest_are_kept_and_a_failure_is_not() -> None:
    kept, made = Computed[int](2), list[int]()

    def make(number: int) -> Callable[[], int]:
        def one() -> int:
            made.append(number)
            return number

        return one

    for number in (1, 2, 1, 3, 1):
        assert kept.of(number, make(number)) == number
    assert made == [1, 2, 3, 1]
    with pytest.raises(ZeroDivisionError):
        kept.of(9, lambda: 1 // 0)
    assert kept.of(9, make(9)) == 9
