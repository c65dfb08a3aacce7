"""What a sweep has used of its budget, and the end that follows from it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recallfront.platform.results.budget import budget_of, end_of
from recallfront.platform.results.records import SweepRecord, expected_end
from recallfront.platform.results.status import Status
from tests.conftest import SPEC

MakeRecord = Callable[..., SweepRecord]


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


def test_the_end_is_the_budget_s_where_that_is_earlier(make_record: MakeRecord) -> None:
    tags = {"trials_planned": "10", "trials_finished": "4", "elapsed_seconds": "1800"}
    record = make_record(4, spec=SPEC | {"budget": {"hours": 0.6}}, tags=tags)
    by_pace, by_budget = expected_end(tags), end_of(record)
    assert by_pace is not None and by_budget is not None
    assert by_pace - by_budget == pytest.approx(2700 - 360, abs=5)
    without = end_of(replace(record, spec=SPEC))
    assert without is not None and without == pytest.approx(by_pace, abs=5)
