"""The list of sweeps."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from recallfront.benchmarks.dashboards.copies import copy_sweep, fill_with_copies
from recallfront.benchmarks.dashboards.pages import pages_spec
from recallfront.dashboards.compare_page import _chooser, _names, _ordered
from recallfront.dashboards.reading import now
from recallfront.dashboards.rendering import render
from recallfront.dashboards.sweeps_page import (
    ON_A_PAGE,
    Listing,
    SweepLine,
    line_of,
    lines_of,
    listed,
    thinned,
)
from recallfront.dashboards.views import view_of
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.sweep.lock import only_driver_of
from recallfront.platform.tracking.ledger import SweepSummary
from tests.dashboards.served import Served
from tests.platform.stores import ready_home


def summary(number: int, **tags: str) -> SweepSummary:
    known = {"status": "finished", "trials_finished": str(number % 30), "trials_planned": "30"}
    metrics = {"hypervolume": float(number % 17)}
    key = f"{number:08x}".ljust(64, "0")
    return SweepSummary(
        f"r{number}", key, f"Study-{number}", "FINISHED", 1e9 - number, None, known | tags, metrics
    )


def lines(count: int) -> list[SweepLine]:
    return [line_of(summary(number)) for number in range(count)]


def names(found: Sequence[SweepLine]) -> list[str]:
    return [line.name for line in found]


def test_a_line_is_read_off_its_run_alone() -> None:
    line = line_of(summary(5, elapsed_seconds="90", trials_failed="2"))
    assert (line.state, line.seconds, line.hypervolume, line.planned) == ("finished", 90.0, "5", 30)
    assert line.told == "5 of 30 finished, 2 failed"
    edited = line_of(summary(0, elapsed_seconds="<b>", status="?"))
    assert (edited.state, edited.seconds) == ("unknown", None)


def test_a_killed_sweep_has_no_trials_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECALLFRONT_HOME", str(tmp_path))
    running = summary(7, status="running", trials_running="3", trials_unfinished="1")
    assert line_of(running).told == "7 of 30 finished, 3 running, 1 unfinished"

    def shown() -> SweepLine:
        (line,) = lines_of([running], "sqlite:///none.db")
        return line

    with only_driver_of(running.sweep_key, "Study-7", tmp_path):
        assert shown().state == "running"
    line = shown()
    assert (line.state, line.told) == ("killed", "7 of 30 finished, 4 unfinished")


@pytest.mark.parametrize("count", [0, 1, 2, 119, 120, 121, 300, 2000])
def test_a_small_picture_ends_with_the_latest_hypervolume(count: int) -> None:
    found = thinned([float(number) for number in range(count)])
    assert found[-1:] == ([count - 1.0] if count else []) and len(found) <= 121
    assert found == sorted(set(found))


def test_it_is_searched_sorted_and_filtered() -> None:
    known = [*lines(12), line_of(summary(12, status="running"))]
    assert names(Listing(search="study-1 00000b").of(known)) == ["Study-11"]
    assert names(Listing(state="running").of(known)) == ["Study-12"]
    assert names(Listing(sort="hypervolume").of(known))[0] == "Study-12"
    assert names(Listing(sort="name").of(known))[:3] == ["Study-0", "Study-1", "Study-10"]
    assert Listing(search="a b", page=3).address(page=4) == "?search=a+b&page=4"


@pytest.mark.parametrize(("page", "first"), [(1, "Study-0"), (3, "Study-100"), (99, "Study-100")])
def test_a_page_has_fifty(page: int, first: str) -> None:
    shown = listed(lines(120), Listing(page=page))
    assert shown["lines"][0].name == first and len(shown["lines"]) <= ON_A_PAGE
    html = render("sweeps.html", "", **shown)
    assert html.count("data-spark=") == len(shown["lines"]) and "120 of 120" in html


def test_a_thousand_are_written_in_a_moment() -> None:
    start = time.process_time()
    render("sweeps.html", "", **listed(lines(1000), Listing(search="study")))
    # of this process alone, whatever runs beside it; the target for the whole answer is 0.5 s
    assert time.process_time() - start < 0.5


def processor_seconds(process: psutil.Process) -> float:
    """What a process and all below it have taken of a core."""
    every = [process, *process.children(recursive=True)]
    return sum(used.user + used.system for used in (one.cpu_times() for one in every))


@pytest.mark.alone
@pytest.mark.slow
# SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_a_server_answers_with_a_thousand_in_half_a_second(tmp_path: Path) -> None:
    """Of a core, as others may use the machine; each time it reads its store anew."""
    home = ready_home(tmp_path)
    copy_sweep(home, fill_with_copies(home, pages_spec(15), 15), 999)
    server = Served(home, {})
    process = psutil.Process(server.process.pid)

    def seconds(asked: str) -> float:
        before = now()
        while now() == before:  # pages share for a moment what was read of a store
            time.sleep(0.1)
        start = processor_seconds(process)
        page = server.get(f"/recallfront/{asked}")
        taken = processor_seconds(process) - start
        assert "1000 of 1000" in page and page.count('class="card sweep"') == ON_A_PAGE
        return taken

    try:
        server.get("/recallfront/")  # which reads the templates
        # the least of three, as a core that others share is slower
        for asked in ("", "?search=pages&state=finished&sort=hypervolume&page=20"):
            assert min(seconds(asked) for _ in range(3)) < 0.5, asked
    finally:
        assert server.stop(signal.SIGTERM) == 0


def test_what_is_compared_is_chosen_from_pages_of_the_list() -> None:
    known = lines(120)
    shown = _chooser(known, ["r3", "r99"], Listing(page=2))
    assert names(shown["chosen"]) == ["Study-3", "Study-99"] and len(shown["lines"]) == ON_A_PAGE
    html = render("compare.html", "", **shown)
    assert html.count('type="checkbox"') == 2 + ON_A_PAGE and html.count(" checked") == 2
    assert html.count('name="page"') == 1 + 3 and "118 of 118" in html


def test_the_oldest_sweep_is_what_the_others_are_compared_with(
    make_record: Callable[..., SweepRecord],
) -> None:
    old, new = make_record(2), make_record(2, run_id="n" * 32, sweep_key="a1".ljust(64, "0"))
    later = tuple(replace(trial, start_time=trial.start_time + 1e6) for trial in new.trials)
    views = [
        view_of(replace(new, trials=later), "7"),
        view_of(make_record(0, run_id="e"), "7"),
        view_of(old, "7"),
    ]
    assert [view.record.run_id[0] for view in _ordered(views, "")] == ["c", "n", "e"]
    assert [view.record.run_id[0] for view in _ordered(views, "n" * 32)] == ["n", "c", "e"]
    assert _names([views[2], views[0]]) == ["quickstart 5eed0000", "quickstart a1000000"]
