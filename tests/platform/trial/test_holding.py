"""Two sweeps of one home have the same trial: one of them runs it, and the other waits."""

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.holding import let_go
from recallfront.platform.trial.leaving import LEFT
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import TrialConfig
from tests.platform.trial import trials
from tests.platform.trial.trials import rows_of, setting

pytestmark = trials.MARKS
Begun = tuple[TrialConfig, Workplace, Generator[Report, None, None]]


class Other(threading.Thread):
    """Runs a trial for another sweep."""

    def __init__(self, config: TrialConfig, place: Workplace, leave: threading.Event | None = None) -> None:
        super().__init__(daemon=True)
        self._config, self._place, self._leave = config, replace(place, sweep="two"), leave
        self.reports: list[Report] = []
        self.start()

    def run(self) -> None:
        self.reports += run_trial(self._config, self._place, self._leave)


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    """A trial that the first sweep has trained to step 10 of 20."""
    config, place = setting(tmp_path, training={"steps": 20, "checkpoint_seconds": 0})
    with closing(run_trial(config, replace(place, sweep="one"))) as reports:
        assert [next(reports).step, next(reports).step] == [0, 10]
        yield config, place, reports


def test_the_second_takes_the_result_of_the_first(begun: Begun) -> None:
    config, place, reports = begun
    other = Other(config, place)
    other.join(timeout=1.5)
    assert other.is_alive() and not other.reports
    first = list(reports)[-1]
    other.join(timeout=30)
    (found,) = other.reports
    assert found.status is Status.FINISHED and found.figures["recall"] == first.figures["recall"]


def test_the_second_goes_on_where_the_first_has_left(begun: Begun) -> None:
    config, place, reports = begun
    other = Other(config, place)
    other.join(timeout=1.0)
    reports.close()
    other.join(timeout=60)
    assert other.reports[-1].status is Status.FINISHED and other.reports[1].step == 10
    assert [step for step, _ in rows_of(other.reports, "loss")] == list(range(1, 21))


def test_one_that_is_let_go_is_taken_over(begun: Begun) -> None:
    """A rule has ended it in the first sweep, whose process rests: what it saves later must not disturb."""
    config, place, reports = begun
    other = Other(config, place)
    other.join(timeout=1.0)
    assert other.is_alive()
    let_go(place.folder(config))
    other.join(timeout=60)
    assert other.reports[-1].status is Status.FINISHED
    assert [step for step, _ in rows_of(other.reports, "loss")] == list(range(1, 21))
    (place.folder(config) / "lock").write_text("two")
    reports.close()
    assert not list(place.folder(config).glob("checkpoint*"))


def test_one_that_waits_leaves_when_it_is_told_to(begun: Begun) -> None:
    config, place, _ = begun
    leave = threading.Event()
    other = Other(config, place, leave)
    other.join(timeout=1.0)
    leave.set()
    other.join(timeout=10)
    (left,) = other.reports
    assert left.status is Status.LOST and LEFT in left.details


def test_the_same_sweep_does_not_wait_for_itself(begun: Begun) -> None:
    """A warm process holds a trial that a rule has ended, and another one goes on with it."""
    config, place, _ = begun
    assert list(run_trial(config, replace(place, sweep="one")))[-1].status is Status.FINISHED
