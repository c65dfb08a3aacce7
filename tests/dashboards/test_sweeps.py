"""The list of sweeps."""

import time
from collections.abc import Sequence

import pytest

from recallfront.dashboards.rendering import render
from recallfront.dashboards.sweeps_page import ON_A_PAGE, Listing, SweepLine, _shown, line_of
from recallfront.platform.tracking.ledger import SweepSummary


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


def test_it_is_searched_sorted_and_filtered() -> None:
    known = [*lines(12), line_of(summary(12, status="running"))]
    assert names(Listing(search="study-1 00000b").of(known)) == ["Study-11"]
    assert names(Listing(state="running").of(known)) == ["Study-12"]
    assert names(Listing(sort="hypervolume").of(known))[0] == "Study-12"
    assert names(Listing(sort="name").of(known))[:3] == ["Study-0", "Study-1", "Study-10"]
    assert Listing(search="a b", page=3).address(page=4) == "?search=a+b&page=4"


@pytest.mark.parametrize(("page", "first"), [(1, "Study-0"), (3, "Study-100"), (99, "Study-100")])
def test_a_page_has_fifty(page: int, first: str) -> None:
    shown = _shown(lines(120), Listing(page=page))
    assert shown["lines"][0].name == first and len(shown["lines"]) <= ON_A_PAGE
    html = render("sweeps.html", "", **shown)
    assert html.count("data-spark=") == len(shown["lines"]) and "120 of 120" in html


def test_a_thousand_are_written_in_a_moment() -> None:
    start = time.process_time()
    render("sweeps.html", "", **_shown(lines(1000), Listing(search="study")))
    # of this process alone, whatever runs beside it; the target for the whole answer is 0.5 s
    assert time.process_time() - start < 0.5
