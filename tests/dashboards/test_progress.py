"""What a page says of a sweep that runs."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from recallfront.dashboards.progress import workers_of
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status

MakeRecord = Callable[..., SweepRecord]


@pytest.mark.parametrize(
    ("tags", "phase", "step"),
    [
        ({}, "starting and measuring", 0),
        ({"steps": "0"}, "measured, training", 0),
        ({"steps": "150"}, "training, step 150 of 300", 150),
        ({"steps": "9999"}, "training, step 9,999 of 300", 300),
        ({"steps": "<b>"}, "measured, training", 0),
    ],
)
def test_a_worker_says_how_far_its_trial_is(
    make_record: MakeRecord, tags: dict[str, str], phase: str, step: int
) -> None:
    record = make_record(2, (Status.RUNNING, Status.PRUNED))
    running = replace(record.trials[2], tags=tags | {"node": "n1"}, metrics={"validation_recall": 0.5})
    record = replace(record, trials=(*record.trials[:2], running, record.trials[3]))
    (found,) = workers_of(record, ("window_size",), running.start_time + 90)
    assert (found.phase, found.step, found.steps) == (phase, step, 300)
    assert (found.label, found.node, found.recall) == ("window · window_size 16 · seed 0", "n1", "0.500")
    assert found.seconds == 90


def test_a_rest_between_two_attempts_is_not_counted(make_record: MakeRecord) -> None:
    record = make_record(1, (Status.RUNNING, Status.RUNNING))
    resumed = replace(record.trials[1], tags={"run_seconds": "7.5"})
    record = replace(record, trials=(record.trials[0], resumed, record.trials[2]))
    found = workers_of(record, (), record.trials[0].start_time + 9000)
    assert [worker.seconds for worker in found] == [8984, 7.5]


def test_the_longest_is_first(make_record: MakeRecord) -> None:
    record = make_record(1, (Status.RUNNING, Status.RUNNING))
    assert [worker.seconds for worker in workers_of(record, (), record.trials[0].start_time + 100)] == [
        92,
        84,
    ]
