"""Two sweeps of one home have the same trial: one of them runs it, and the other waits."""

import shutil
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial import holding
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.holding import let_go
from recallfront.platform.trial.leaving import LEFT
from recallfront.platform.trial.training import Training
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import TrialConfig
from tests.platform.trial import trials
from tests.platform.trial.trials import rows_of, setting

pytestmark = trials.MARKS
Begun = tuple[TrialConfig, Workplace, Generator[Report, None, None]]


class Other(threading.Thread):
    """Runs a trial for another sweep."""

    def __init__(
        self, config: TrialConfig, place: Workplace, leave: threading.Event | None = None, sweep: str = "two"
    ) -> None:
        super().__init__(daemon=True)
        self._config, self._place, self._leave = config, replace(place, sweep=sweep), leave
        self.reports: list[Report] = []
        self.start()

    def run(self) -> None:
        self.reports += run_trial(self._config, self._place, self._leave)


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    """A trial that the first sweep has trained to step 10 of 30."""
    config, place = setting(tmp_path, training={"steps": 30, "checkpoint_seconds": 0})
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
    assert [step for step, _ in rows_of(other.reports, "loss")] == list(range(1, 31))


def test_one_that_is_let_go_is_taken_over(begun: Begun) -> None:
    """A rule has ended it in the first sweep, whose process rests: what it saves later must not disturb."""
    config, place, reports = begun
    other = Other(config, place)
    other.join(timeout=1.0)
    assert other.is_alive()
    let_go(place.folder(config))
    other.join(timeout=60)
    assert other.reports[-1].status is Status.FINISHED
    assert [step for step, _ in rows_of(other.reports, "loss")] == list(range(1, 31))
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


def test_a_process_that_another_one_of_its_sweep_has_followed_saves_nothing(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial was promoted, and its former process gets another one only now."""
    config, place, reports = begun
    checkpoint = place.folder(config) / "checkpoint"
    first = holding._PROCESS
    monkeypatch.setattr(holding, "_PROCESS", "another")
    with closing(run_trial(config, replace(place, sweep="one"))) as promoted:
        assert [next(promoted).step for _ in range(3)] == [0, 10, 20]
        before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
        monkeypatch.setattr(holding, "_PROCESS", first)
        reports.close()
        assert {path: path.read_bytes() for path in before} == before
        with holding.unheld(place.folder(config)) as is_free:
            assert not is_free, "the other one holds it"
        monkeypatch.setattr(holding, "_PROCESS", "another")


def test_a_folder_is_freed_and_taken_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock names the sweep that had the folder last, which comes back while it is locked but not yet freed."""
    (tmp_path / "lock").write_text(holding._mark("one"))
    taken, locked = list[IO[str] | None](), holding._locked
    taking = threading.Thread(target=lambda: taken.append(holding._taken(tmp_path, "one")), daemon=True)

    def slow(path: Path, *, wait: bool = False) -> IO[str] | None:
        file = locked(path, wait=wait)
        if path.name == "lock" and threading.current_thread() is threading.main_thread():
            taking.start()
            taking.join(timeout=2.0)
        return file

    monkeypatch.setattr(holding, "_locked", slow)
    with holding.unheld(tmp_path) as is_free:
        taking.join(timeout=60)
        assert is_free and taken == [None], "it waits"


def test_a_deleted_folder_that_another_one_has_made_again_stays_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()
    with holding.unheld(folder) as is_free:
        assert is_free
        shutil.rmtree(folder)
        taken = holding._taken(folder, "one")
    assert taken is not None
    with taken:
        assert holding._taken(folder, "two") is None


def test_one_that_is_promoted_waits_until_its_former_process_has_saved(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, place, reports = begun
    saves, go_on, write = threading.Event(), threading.Event(), Training._write_checkpoint

    def slow(training: Training, folder: Path) -> None:
        saves.set()
        assert go_on.wait(timeout=60)
        write(training, folder)

    monkeypatch.setattr(Training, "_write_checkpoint", slow)
    leaving = threading.Thread(target=reports.close, daemon=True)
    leaving.start()
    assert saves.wait(timeout=60)
    monkeypatch.setattr(holding, "_PROCESS", "another")
    promoted = Other(config, place, sweep="one")
    promoted.join(timeout=3.0)
    assert promoted.is_alive() and not promoted.reports
    go_on.set()
    promoted.join(timeout=60)
    assert promoted.reports[-1].status is Status.FINISHED and promoted.reports[1].step == 10
