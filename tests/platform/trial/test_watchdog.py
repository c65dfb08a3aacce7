"""A trial that hangs inside a step is ended from outside, and the next attempt says so."""

import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial import body, watchdog
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.watchdog import Watchdog
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.trial import TrialConfig
from tests.platform.specs import tiny_spec
from tests.platform.trial.trials import run, setting

pytestmark = pytest.mark.alone

_LIMIT = 5.0  # seconds: more than a busy machine keeps a process waiting

HANG = """
import sys, time
from pathlib import Path
from recallfront.platform.trial import watchdog
from recallfront.platform.results.reports import Report
from tests.platform.trial.test_watchdog import trial, workplace

def hangs():
    yield Report(step=0)
    time.sleep(600)

watchdog._GRACE = 0.2
for report in watchdog.Watchdog(trial(0.3), workplace(Path(sys.argv[1]))).guard(hangs()):
    print("step", report.step, flush=True)
print("went on")
"""


@pytest.fixture(autouse=True)
def _nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No watchdog of these trials ends its process, which is pytest's own."""
    exits: list[int] = []
    monkeypatch.setattr(watchdog, "os", SimpleNamespace(_exit=exits.append))
    yield
    assert not exits


def trial(limit: float | None) -> TrialConfig:
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4}], resources={"time_limit_seconds": limit}
    )
    return spec.trial(spec.blocks[0], {"window_size": 4}, 0)


def workplace(home: Path) -> Workplace:
    return Workplace(home=home, data=home / "data", data_digest="0" * 64, code_version="0" * 16)


def quick(reports: list[str]) -> Generator[Report, None, None]:
    try:
        yield Report(step=1)
        yield Report(step=2, status=Status.FINISHED)
    finally:
        reports.append("closed")


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_and_recorded_as_a_timeout(tmp_path: Path) -> None:
    start = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c", HANG, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 1 and answer.stdout == "step 0\n", answer.stderr
    assert time.monotonic() - start < 100, "not after the ten minutes that it would have slept"

    again = list(Watchdog(trial(0.3), workplace(tmp_path)).guard(quick([])))
    assert [report.status for report in again] == [Status.TIMEOUT]
    assert "exceeded the time limit of 0.3 s" in (again[0].failure or "")
    third = list(Watchdog(trial(0.3), workplace(tmp_path)).guard(quick([])))
    assert third[-1].status is Status.FINISHED, "that was said once; asked to run again, it may"


def test_word_that_was_left_is_all_that_the_next_attempt_says(tmp_path: Path) -> None:
    place, config = workplace(tmp_path), trial(None)
    word = Report(
        step=0, status=Status.OUT_OF_MEMORY, failure="no memory", figures={"peak_memory_bytes": 1.0}
    )
    watchdog.leave_word(place.folder(config), word)
    closed: list[str] = []
    assert list(Watchdog(config, place).guard(quick(closed))) == [word]
    assert list(Watchdog(config, place).guard(quick(closed)))[-1].status is Status.FINISHED


def test_measuring_and_waiting_for_it_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_GRACE", 0.1)
    device = Device("cpu", tmp_path / "locks")

    def measures() -> Generator[Report, None, None]:
        with device.alone():
            time.sleep(1.2 * _LIMIT)
        yield Report(step=1, status=Status.FINISHED)

    found = list(Watchdog(trial(_LIMIT), workplace(tmp_path)).guard(measures()))
    device.close()
    assert [report.status for report in found] == [Status.FINISHED]


@pytest.mark.slow
def test_preparing_and_keeping_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large data set on its way to a node, an object store that is away, or weights on their way there."""
    monkeypatch.setattr(watchdog, "_GRACE", 0.0)
    trial_of_one_step = {"training": {"steps": 1}, "measurement": {"max_repeats": 3}}
    run(tmp_path / "first", **trial_of_one_step)  # imports what takes longer than the limit
    config, place = setting(
        tmp_path / "second", resources={"time_limit_seconds": _LIMIT}, **trial_of_one_step
    )

    def slow(*arguments: object) -> list[str]:
        time.sleep(1.2 * _LIMIT)
        return []

    monkeypatch.setattr(body, "bring_data", slow)
    monkeypatch.setattr(body, "_keep_result", slow)
    found = list(Watchdog(config, place).guard(run_trial(config, place)))
    assert found[-1].status is Status.FINISHED


def test_word_that_came_too_late_is_passed_over(tmp_path: Path) -> None:
    place, config = workplace(tmp_path), trial(None)
    watchdog.leave_word(place.folder(config), Report(step=0, status=Status.TIMEOUT, failure="too long"))
    (place.folder(config) / "result.json").write_text("whole")
    assert list(Watchdog(config, place).guard(quick([])))[-1].status is Status.FINISHED


@pytest.mark.parametrize("limit", [None, _LIMIT])
def test_a_trial_that_ends_is_left_alone(
    limit: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_GRACE", 0.1)
    closed: list[str] = []
    found = [report.step for report in Watchdog(trial(limit), workplace(tmp_path)).guard(quick(closed))]
    assert found == [1, 2] and closed == ["closed"]
    time.sleep(1.1 * (limit or 0.0))


def test_a_trial_that_rests_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule has ended it, and its warm process has no other trial yet."""
    monkeypatch.setattr(watchdog, "_GRACE", 0.1)
    reports = Watchdog(trial(_LIMIT), workplace(tmp_path)).guard(quick([]))
    next(reports)
    time.sleep(1.1 * _LIMIT)
    assert [report.step for report in reports] == [2]


def test_closing_stops_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_GRACE", 0.1)
    closed: list[str] = []
    reports = Watchdog(trial(_LIMIT), workplace(tmp_path)).guard(quick(closed))
    next(reports)
    reports.close()
    assert closed == ["closed"]
    time.sleep(1.1 * _LIMIT)


def test_a_look_that_comes_after_the_end_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer had fired when the trial ended: what it would end is the next trial of this warm process."""
    monkeypatch.setattr(watchdog, "_GRACE", -1.0)
    watch = Watchdog(trial(0.2), workplace(tmp_path))
    watch.stop()
    watch._look()
    assert not list(tmp_path.rglob("ended.json"))


@pytest.mark.parametrize("content", ["", "{", "{}", "null", '{"status": "finished"}'])
def test_damaged_word_is_told_and_the_trial_runs(tmp_path: Path, content: str) -> None:
    place, config = workplace(tmp_path), trial(None)
    place.folder(config).mkdir(parents=True)
    (place.folder(config) / "ended.json").write_text(content)
    found = list(Watchdog(config, place).guard(quick([])))
    assert found[-1].status is Status.FINISHED and "damaged ended.json" in found[-1].notices[0]
