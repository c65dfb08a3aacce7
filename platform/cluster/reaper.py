"""Ends the processes of a Ray once the driver that has started it is gone: a program that outlives the driver.

Its standard input is a pipe from the driver, which the kernel closes when the driver ends, however it ends. By then
Ray's agents have no parent, and titles of their own, to be found by: the processes are noted before.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil


def main() -> None:
    """Note the parent's processes of the session named on the command line, wait for its end, and kill them."""
    driver = psutil.Process().parent()
    roots = [p for p in driver.children() if sys.argv[1] in " ".join(p.cmdline())] if driver else []
    noted = _with_all_below(roots)
    sys.stdin.read()
    for process in _with_all_below(noted):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _with_all_below(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    found = set(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found |= set(process.children(recursive=True))
    return found


if __name__ == "__main__":
    main()
