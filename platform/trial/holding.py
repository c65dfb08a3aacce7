"""One process at a time runs a trial in its folder: two sweeps of one home may both have the trial.

The one that comes second waits, and then takes the other's result, or goes on from its checkpoint. A lock is a
machine's, or that of a folder which machines share. Without one both run it, and the first that ends it has the result.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Final

from recallfront.platform.trial.leaving import Leaving
from recallfront.platform.trial.nodes import on_every_rank
from recallfront.platform.trial.quiet import aside
from recallfront.platform.trial.workplace import Workplace

_LOCK: Final = "lock"
_LOOK_SECONDS = 0.5


@contextmanager
def held(folder: Path, place: Workplace, told_to_leave: Event) -> Iterator[None]:
    """Hold a trial's folder for a sweep, by rank 0; the kernel gives the lock of a killed process back.

    A process of the same sweep is not waited for: it has ended the trial early, and holds it until it gets another one.

    Raises:
        Leaving: the process is to leave while it waits.
    """
    lock: list[IO[str]] = []

    def look() -> str:
        if not lock and (taken := _taken(folder / _LOCK, place.sweep)):
            lock.append(taken)
        return "held" if lock else "told to leave" if told_to_leave.is_set() else "waits"

    try:
        # ranks look together, as one that waits in a collective gives up after a while
        while (said := on_every_rank(look, place)) == "waits":
            with aside():  # one look after the other: however long the other trains, this one does not hang
                time.sleep(_LOOK_SECONDS)
        if said != "held":
            raise Leaving("its process was told to end; another sweep of this home runs it")
        yield
    finally:
        for file in lock:
            file.close()


def is_held_by(folder: Path, sweep: str) -> bool:
    """Whether no other sweep has taken a trial's folder over."""
    try:
        return (folder / _LOCK).read_text() == sweep
    except FileNotFoundError:  # it was let go, and nobody has it
        return True


def let_go(folder: Path) -> None:
    """Let others take a trial's folder, whose process may hold it until it gets another trial."""
    (folder / _LOCK).unlink(missing_ok=True)


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Whether no process runs a trial in its folder; none begins to within."""
    if not folder.exists():
        yield True
        return
    with open(folder / _LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = _is_at(folder / _LOCK, file)
            file.truncate(0)  # no sweep has it: a trial of the one that had it before waits as any other
        except BlockingIOError:
            is_free = False
        yield is_free
        if is_free:
            let_go(folder)


def _taken(path: Path, sweep: str) -> IO[str] | None:
    """The locked file; None if another sweep has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        if file.read() == sweep:
            return file
        file.close()
        return None
    if not _is_at(path, file):
        file.close()
        return None
    file.truncate(0)
    file.write(sweep)
    file.flush()
    return file


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether an open lock still has its place: it may have been let go meanwhile."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
