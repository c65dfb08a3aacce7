"""What `status` says of a sweep: how far it is, where it runs, what waits, and when it ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from recallfront.platform.results.records import TAG, SweepRecord, expected_end
from recallfront.platform.results.status import Status
from recallfront.platform.status import sweep_table, sweeps_table
from recallfront.platform.sweep.lock import only_driver_of
from recallfront.platform.sweep.waiting import what_waits
from recallfront.platform.tracking.client import open_client
from recallfront.sweeps.trial import ResourceConfig
from tests.conftest import SPEC
from tests.dashboards.served import write
from tests.platform.stores import ready_store

TAGS = {
    "status": "running",
    "trials_planned": "10",
    "trials_finished": "3",
    "trials_failed": "1",
    "elapsed_seconds": "400",
}


def test_the_end_is_that_of_the_mean_pace() -> None:
    assert expected_end(TAGS, now=1000.0) == 1000.0 + 400 * 6 / 4


def test_the_end_is_that_of_the_budget_where_that_is_earlier() -> None:
    assert expected_end(TAGS, now=1000.0, shares=[0.0, 0.5, 0.8]) == pytest.approx(1000.0 + 400 / 4)
    assert expected_end(TAGS, now=1000.0, shares=[0.1]) == 1000.0 + 400 * 6 / 4
    assert expected_end(TAGS, now=1000.0, shares=[1.0]) == 1000.0


@pytest.mark.parametrize(
    "changes",
    [
        {"trials_finished": "0", "trials_failed": "0"},
        {"trials_finished": "9"},
        {"elapsed_seconds": "x"},
        {"elapsed_seconds": "9" * 400},
        {"trials_planned": "0"},
    ],
    ids=["none has ended", "all have", "edited", "too long", "no plan"],
)
def test_no_end_is_expected(changes: dict[str, str]) -> None:
    assert expected_end(TAGS | changes) is None


def test_a_sweep_has_a_bar_and_an_expected_end_while_it_runs(tmp_path: Path) -> None:
    client = open_client(ready_store(tmp_path))
    experiment = client.create_experiment("mine")
    for status in ("running", "finished"):
        tags = TAGS | {"kind": "sweep", "sweep_key": "ab" * 32, "status": status}
        client.create_run(experiment, tags={TAG + name: value for name, value in tags.items()})
    table = sweeps_table(home=tmp_path)
    states, _, bars, ends = ([str(cell) for cell in column.cells] for column in table.columns[2:6])
    assert bars == ["████░░░░░░"] * 2
    assert {name: bool(end) for name, end in zip(states, ends, strict=True)} == {
        "running": True,
        "finished": False,
    }


def test_where_trials_run_and_what_waits_is_below_them(record: SweepRecord, tmp_path: Path) -> None:
    ready_store(tmp_path)
    trials = [
        replace(trial, status=Status.RUNNING, tags=trial.tags | {"node": node})
        for trial, node in zip(record.trials, ("b", "a", "b"), strict=False)
    ]
    tags = TAGS | {
        "waiting": "1 trial waits for 2 CPU each, of which 0 are free",
        "budget_left": "budget left: 3 trials",
    }
    running = replace(record, trials=tuple(trials), tags=tags)
    caption = str(sweep_table(running, home=tmp_path).caption)
    assert caption.splitlines()[:3] == ["running on a: 1, b: 2", tags["waiting"], tags["budget_left"]]
    assert caption.splitlines()[3].startswith("expected end 20")
    assert "running on" not in str(sweep_table(replace(running, tags=tags | {"status": "finished"})).caption)


def test_of_very_many_trials_those_are_listed_that_have_something_to_say(
    record: SweepRecord, tmp_path: Path
) -> None:
    ready_store(tmp_path)
    first, second, *others = (
        replace(record.trials[0], run_id=f"{number:08d}".ljust(32, "a")) for number in range(230)
    )
    told = (
        replace(first, status=Status.ERROR, failure="it is too large"),
        replace(second, status=Status.RUNNING),
    )
    many = replace(record, trials=(*told, *others), tags=TAGS | {"status": "finished"})
    table = sweep_table(many, home=tmp_path)
    runs = [trial.run_id[:8] for trial in many.trials]
    (shown,) = [list(map(str, column.cells)) for column in table.columns if column.header == "run"]
    assert shown == [*runs[:2], *runs[-198:]], "in the order in which they were started"
    assert str(table.caption).startswith("--all lists 30 more")
    every = sweep_table(many, every=True, home=tmp_path)
    assert every.row_count == 230 and "--all" not in str(every.caption)


def test_the_expected_end_is_that_of_the_budget_in_the_list_and_below_a_sweep(
    make_record: Callable[..., SweepRecord], tmp_path: Path
) -> None:
    uri = ready_store(tmp_path)
    run = write(make_record(4, spec=SPEC | {"budget": {"hours": 1.5}}), uri, "running")
    told = {"trials_planned": "1000", "elapsed_seconds": "3600", "budget_left": "budget left: 30 min"}
    for name, value in told.items():
        open_client(uri).set_tag(run, TAG + name, value)
    (listed,) = sweeps_table(home=tmp_path).columns[5].cells
    caption = str(sweep_table(run, home=tmp_path).caption).splitlines()[-1]
    for end in (str(listed), caption.removeprefix("expected end ")):
        left = datetime.fromisoformat(end) - datetime.now()
        assert timedelta(minutes=25) < left < timedelta(minutes=35), "half an hour, and 249 by the pace alone"


def test_a_killed_driver_s_trials_are_unfinished_in_the_list_of_sweeps(tmp_path: Path) -> None:
    client, key = open_client(ready_store(tmp_path)), "ab" * 32
    tags = TAGS | {"kind": "sweep", "sweep_key": key, "trials_running": "2", "trials_unfinished": "1"}
    told = {TAG + name: value for name, value in tags.items()}
    client.create_run(client.create_experiment("mine"), tags=told)

    def shown() -> list[str]:
        return [str(cell) for column in sweeps_table(home=tmp_path).columns[2:4] for cell in column.cells]

    with only_driver_of(key, "mine", tmp_path):
        assert shown() == ["running", "3 of 10 finished, 2 running, 1 failed, 1 unfinished"]
    assert shown() == ["killed: run it again to resume", "3 of 10 finished, 1 failed, 3 unfinished"]


def test_a_killed_driver_s_trials_are_unfinished(record: SweepRecord, tmp_path: Path) -> None:
    first = replace(record.trials[0], status=Status.RUNNING, tags={"node": "n1"})
    left = replace(record, trials=(first, *record.trials[1:]), tags=TAGS)
    ready_store(tmp_path)

    def shown() -> tuple[str, str]:
        table = sweep_table(left, home=tmp_path)
        return str(next(iter(table.columns[1].cells))), str(table.caption)

    with only_driver_of(left.sweep_key, left.name, tmp_path):
        status, caption = shown()
        assert status == "running" and "expected end" in caption and "running on n1: 1" in caption
    status, caption = shown()
    assert status == "unfinished" and caption.startswith("killed: run it again to resume\nhypervolume ")
    assert "expected end" not in caption and "running" not in caption


def test_what_is_waited_for_is_said() -> None:
    asked = ResourceConfig(cpus=2, gpus=1, workers=2)
    assert what_waits(3, asked, [{"CPU": 8.0}]) == "3 trials wait for 2 GPU each, of which 0 are free"
    assert (
        what_waits(1, ResourceConfig(), [{"CPU": 0.5}])
        == "1 trial waits for 1 CPU each, of which 0.5 are free"
    )
    halves = [{"CPU": 0.5}, {"CPU": 0.5}]
    assert what_waits(1, ResourceConfig(), halves) == "1 trial waits for a node that has enough of it free"
    assert what_waits(1, ResourceConfig(), [{"CPU": 1.0}]) == "1 trial waits for a process to start"


def test_what_an_autoscaler_does_about_it_is_said() -> None:
    asked, waits = ResourceConfig(cpus=2), "1 trial waits for 2 CPU each, of which 1 are free"
    assert what_waits(1, asked, [{"CPU": 1.0}], {}) == f"{waits}; a node may be added"
    unknown = "version 1 of Ray's autoscaler does not tell whether it can add a node"
    assert what_waits(1, asked, [{"CPU": 1.0}], {}, judged=False) == f"{waits}; {unknown}"
    coming = {"large": 1, "gpu": 2}
    for judged in (True, False):
        assert what_waits(1, asked, [{"CPU": 1.0}], coming, judged=judged) == (
            f"{waits}; nodes are being added: 2 of type gpu, 1 of type large"
        )
