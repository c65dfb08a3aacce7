"""Quiet hardware: who measures is alone, whatever becomes of the others, and gets its turn."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from recallfront.platform.trial.quiet import Device

pytestmark = pytest.mark.alone

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 30.0  # seconds; what is tested takes milliseconds, but the machine may be busy


@contextmanager
def processes(count: int, body: Callable[..., None], *arguments: object) -> Iterator[list[BaseProcess]]:
    started: list[BaseProcess] = [SPAWN.Process(target=body, args=(*arguments, i)) for i in range(count)]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def train(folder: Path, index: int) -> None:
    """Steps without end, each marked while it lasts."""
    device, mark, steps = Device("cpu", folder), folder / f"step-{index}", 0
    while True:
        with device.shared():
            mark.touch()
            time.sleep(0.002)
            mark.unlink()
        steps += 1
        (folder / f"count-{index}").write_text(str(steps))


def measure(folder: Path, index: int) -> None:
    """One measurement; notes whose steps it saw."""
    with Device("cpu", folder).alone():
        seen = []
        for _ in range(50):
            seen += list(folder.glob("step-*"))
            time.sleep(0.001)
        (folder / f"seen-{index}").write_text(str(len(seen)))


def hold(folder: Path, alone: bool, index: int) -> None:
    device = Device("cpu", folder)
    with device.alone() if alone else device.shared():
        (folder / "held").touch()
        time.sleep(600)


def counts(folder: Path) -> list[int]:
    return [int(file.read_text() or 0) for file in sorted(folder.glob("count-*"))]


@pytest.mark.slow
def test_a_measurement_is_alone_gets_its_turn_and_lets_the_others_go_on(tmp_path: Path) -> None:
    with processes(3, train, tmp_path):
        wait_for(lambda: len(counts(tmp_path)) == 3)
        for round in range(3):
            start = time.monotonic()
            measure(tmp_path, round)  # against trainers that never pause
            assert (tmp_path / f"seen-{round}").read_text() == "0"
            assert time.monotonic() - start < 10
        before = counts(tmp_path)
        wait_for(lambda: all(b > a for a, b in zip(before, counts(tmp_path), strict=True)))


@pytest.mark.slow
def test_several_measurements_do_not_deadlock(tmp_path: Path) -> None:
    with processes(1, train, tmp_path), processes(3, measure, tmp_path):
        wait_for(lambda: [file.read_text() for file in tmp_path.glob("seen-*")] == ["0"] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [True, False], ids=["measuring", "training"])
def test_a_killed_holder_gives_the_device_back(tmp_path: Path, alone: bool) -> None:
    with processes(1, hold, tmp_path, alone) as (holder,):
        wait_for((tmp_path / "held").exists)
        measured = threading.Event()

        def wait_and_measure() -> None:
            with closing(Device("cpu", tmp_path)) as device, device.alone():
                measured.set()

        waiting = threading.Thread(target=wait_and_measure)
        waiting.start()
        assert not measured.wait(0.3)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        assert measured.wait(PATIENCE)
        waiting.join()


def test_devices_are_apart_and_steps_are_not(tmp_path: Path) -> None:
    with closing(Device("cpu", tmp_path)) as one, closing(Device("cpu", tmp_path)) as two:
        with one.shared(), two.shared():
            pass  # two steps at once
        with closing(Device("other", tmp_path)) as other, one.alone(), other.alone():
            pass  # two devices at once


def test_a_failed_step_or_measurement_gives_the_device_back(tmp_path: Path) -> None:
    with closing(Device("cpu", tmp_path)) as one, closing(Device("cpu", tmp_path)) as two:
        for held in (one.alone, one.shared):
            with pytest.raises(RuntimeError), held():
                raise RuntimeError
        with two.alone():
            pass


def test_locks_are_this_users_alone(tmp_path: Path) -> None:
    Device("cpu", tmp_path / "locks").close()
    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "locks").iterdir()} == {0o600}
