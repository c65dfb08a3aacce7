"""One process at a time runs a trial in its folder: two sweeps of one home may both have the trial.

The one that comes second waits, and then takes the other's result, or goes on from its checkpoint. A lock is a
machine's, or that of a folder which machines share. Without one both run it, and the first that ends it has the result.

torch is imported where it is first used, so that the command starts fast.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Final

from recallfront.platform.trial.leaving import Leaving
from recallfront.platform.trial.quiet import aside
from recallfront.platform.trial.workplace import Workplace

_LOCK: Final = "lock"  # its first line names the sweep that has the folder, its second the process
_TURN: Final = "turn"
_PROCESS = uuid.uuid4().hex  # another one of the same sweep may have taken the folder over
_LOOK_SECONDS = 0.5


@contextmanager
def held(folder: Path, place: Workplace, told_to_leave: Event) -> Iterator[None]:
    """Hold a trial's folder for a sweep, by rank 0; the kernel gives the lock of a killed process back.

    A process of the same sweep is not waited for: it has ended the trial early, and holds it until it gets another one.

    Raises:
        Leaving: the process is to leave while it waits.
    """
    from recallfront.platform.trial.nodes import on_every_rank

    lock: list[IO[str]] = []

    def look() -> str:
        if not lock and (taken := _taken(folder, place.sweep)):
            lock.append(taken)
        return "held" if lock else "leaves" if told_to_leave.is_set() else "waits"

    try:
        # ranks look together, as one that waits in a collective gives up after a while
        while (said := on_every_rank(look, place)) == "waits":
            with aside():  # one look after the other: however long the other trains, this one does not hang
                time.sleep(_LOOK_SECONDS)
        if said != "held":
            raise Leaving("its process was asked to end; another sweep of this home runs it")
        yield
    finally:
        for file in lock:
            file.close()


def is_held_by(folder: Path, sweep: str) -> bool:
    """Whether no other sweep has taken a trial's folder over."""
    try:
        return (folder / _LOCK).read_text().partition("\n")[0] == sweep
    except FileNotFoundError:  # it was let go, and nobody has it
        return True


def is_own(folder: Path, sweep: str) -> bool:
    """Whether no other process has taken a trial's folder over, not even one of the same sweep."""
    try:
        return (folder / _LOCK).read_text() == _mark(sweep)
    except FileNotFoundError:
        return True


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Alone of all that take a trial's folder, or that look whether it is theirs and change what is in it."""
    path = folder / _TURN
    with aside():
        while (file := _locked(path, wait=True)) is None:  # who had it has removed the file
            continue
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def let_go(folder: Path) -> None:
    """Let others take a trial's folder, whose process may hold it until it gets another trial."""
    (folder / _LOCK).unlink(missing_ok=True)


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Whether no process runs a trial in its folder; none begins to within."""
    if not folder.exists():
        yield True
        return
    with in_turn(folder):
        file = _locked(folder / _LOCK)
        if file is not None:
            file.truncate(0)  # no sweep has it: a trial of the one that had it before waits as any other
    if file is None:
        yield False
        return
    with file:
        yield True
        if _is_at(folder / _LOCK, file):  # where the folder was deleted, the lock may be another one's by now
            let_go(folder)


def _taken(folder: Path, sweep: str) -> IO[str] | None:
    """The locked file; None if another sweep has it."""
    with in_turn(folder):
        file = _locked(folder / _LOCK)
        if file is None and is_held_by(folder, sweep):
            let_go(folder)  # who ended the trial early keeps the lock of a file that has no place any more
            file = _locked(folder / _LOCK)
        if file is not None:
            file.truncate(0)
            file.write(_mark(sweep))
            file.flush()
        return file


def _mark(sweep: str) -> str:
    return f"{sweep}\n{_PROCESS}"


def _locked(path: Path, *, wait: bool = False) -> IO[str] | None:
    """A file, locked; None if another process has it, or removed it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if _is_at(path, file):
            return file
    except BlockingIOError:
        pass
    file.close()
    return None


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether an open lock still has its place: it may have been let go meanwhile."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
