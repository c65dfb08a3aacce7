"""Ends the processes of a Ray once the driver that has started it is gone: a program that outlives the driver.

Its standard input is a pipe from the driver, which the kernel closes when the driver ends, however it ends. By then
Ray's agents have no parent, and titles of their own, to be found by, nor has what a dead raylet has started: the
processes are noted while Ray starts, and now and then while it runs. One that was started since, and has not yet found
its raylet, is known by the session on its command line, and by the Ray package: who follows a log names a session too.
"""

import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime

import psutil

_LOOK_SECONDS = 0.25  # while Ray starts
_LATER_SECONDS = 5.0  # once it is up
_MOMENT = "%Y-%m-%d_%H-%M-%S_%f"  # at which a session began, in its name


def main() -> None:
    """Note what the driver starts of Ray, more rarely once the driver writes a byte; kill it when the driver ends.

    The command line names the driver's process and the folder of the Ray package.
    """
    folder, pause, noted = sys.argv[2], _LOOK_SECONDS, set[psutil.Process]()
    try:
        driver = psutil.Process(int(sys.argv[1]))
        began = driver.create_time()
    except psutil.NoSuchProcess:
        return
    with suppress(psutil.NoSuchProcess):
        is_there = True
        while is_there:
            if select.select([sys.stdin], [], [], pause)[0]:
                pause, is_there = _LATER_SECONDS, bool(os.read(sys.stdin.fileno(), 1))
            noted |= _with_all_below(child for child in driver.children() if _is_of(folder, child))
    _kill(_with_all_below(noted))
    # after the raylet, so that no more are started
    _kill(_of_session(driver.pid, began, folder))


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):  # it has ended, or is another user's
            process.kill()


def _of_session(driver: int, began: float, folder: str) -> Iterator[psutil.Process]:
    """Those that run something of that folder in the driver's session.

    A session is named by the moment at which it began and the process id of what began it. One that is older than this
    driver is that of a cluster which another command with the same process id has started.
    """
    session, earliest = re.compile(rf"session_([-\d]+_[-\d]+_\d+)_{driver}\b"), _moment(began)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            named = session.search(line)
            if folder in line and named is not None and named[1] >= earliest:
                yield process


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime(_MOMENT)


def _is_of(folder: str, process: psutil.Process) -> bool:
    """Whether a child of the driver runs something of that folder: this program, which names it, is not meant."""
    with suppress(psutil.Error):  # it has ended, or may not be looked at
        return process.pid != os.getpid() and folder in " ".join(process.cmdline())
    return False


def _with_all_below(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    found = set(processes)
    for process in tuple(found):
        with suppress(psutil.Error):
            found |= set(process.children(recursive=True))
    return found


if __name__ == "__main__":
    main()
