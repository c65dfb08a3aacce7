"""Ends the processes of a Ray once the driver that has started it is gone: a program that outlives the driver.

Its standard input is a pipe from the driver, which the kernel closes when the driver ends, however it ends. By then
Ray's agents have no parent, and titles of their own, to be found by, nor has what a dead raylet has started: the
processes are noted while Ray starts, and now and then while it runs.
"""

import os
import select
import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil

_LOOK_SECONDS = 0.25  # while Ray starts
_LATER_SECONDS = 5.0  # once it is up


def main() -> None:
    """Note what the driver starts of Ray, more rarely once the driver writes a byte; kill it when the driver ends.

    The command line names the driver's process and the folder of the Ray package.
    """
    noted: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        driver, folder, pause, is_there = psutil.Process(int(sys.argv[1])), sys.argv[2], _LOOK_SECONDS, True
        while is_there:
            if select.select([sys.stdin], [], [], pause)[0]:
                pause, is_there = _LATER_SECONDS, bool(os.read(sys.stdin.fileno(), 1))
            noted |= _with_all_below(child for child in driver.children() if _is_of(folder, child))
    for process in _with_all_below(noted):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _is_of(folder: str, process: psutil.Process) -> bool:
    """Whether a child of the driver runs something of that folder: this program, which names it, is not meant."""
    with suppress(psutil.NoSuchProcess):
        return process.pid != os.getpid() and folder in " ".join(process.cmdline())
    return False


def _with_all_below(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    found = set(processes)
    for process in tuple(found):
        with suppress(psutil.NoSuchProcess):
            found |= set(process.children(recursive=True))
    return found


if __name__ == "__main__":
    main()
