"""What a page says of a sweep that runs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recallfront.dashboards.progress import budget_of, workers_of
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from tests.conftest import SPEC

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


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ({"hours": 1}, [("time", 0.5, "30 min 00 s of 1 h 00 min used")]),
        ({"device_hours": 0.5}, [("device hours", 1.0, "1 h 00 min of 30 min 00 s used")]),
        ({"trials": 10, "hours": None}, [("trials", 0.4, "4 of 10 used")]),
        ({"training_steps": 5000}, [("training steps", 0.25, "1,250 of 5,000 used")]),
        ({"min_gain": 0.01, "gain_trials": 3}, []),
        ({"trials": 0, "hours": True, "training_steps": "many"}, []),
        ("all", []),
    ],
)
def test_each_limit_of_a_budget_says_what_is_used(
    make_record: MakeRecord, budget: Any, told: list[tuple[str, float, str]]
) -> None:
    others = (Status.ERROR, Status.PRUNED, Status.INVALID, Status.DOMINATED, Status.RUNNING)
    tags = {"elapsed_seconds": "1800", "device_seconds": "3600", "training_steps": "1250"}
    record = make_record(2, others, spec=SPEC | {"budget": budget}, tags=tags)
    assert [(use.name, use.share, use.told) for use in budget_of(record)] == told
    assert budget_of(make_record(2)) == []
