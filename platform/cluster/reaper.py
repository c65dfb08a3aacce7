"""Ends the processes of a Ray once the driver that has started it is gone: a program that outlives the driver.

Its standard input is a pipe from the driver, which the kernel closes when the driver ends, however it ends. By then
Ray's agents have no parent, and titles of their own, to be found by: the processes are noted while Ray starts.
"""

import os
import select
import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil

_LOOK_SECONDS = 0.25


def main() -> None:
    """Note what the driver starts of Ray until the driver writes a line, wait for the driver's end, and kill it.

    The command line names the driver's process and the folder of the Ray package.
    """
    noted: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        driver, started = psutil.Process(int(sys.argv[1])), False
        while not started:
            started = bool(select.select([sys.stdin], [], [], _LOOK_SECONDS)[0])
            noted |= _with_all_below(child for child in driver.children() if _is_of(sys.argv[2], child))
    sys.stdin.read()
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
