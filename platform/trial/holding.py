"""One process at a time runs a trial in its folder: two sweeps of one home may both have the trial.

The one that comes second waits, and then takes the other's result, or goes on from its checkpoint.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Final

from recallfront.platform.trial.leaving import Leaving
from recallfront.platform.trial.quiet import aside

_LOCK: Final = "lock"
_LOOK_SECONDS = 0.5


@contextmanager
def held(folder: Path, sweep: str, told_to_leave: Event) -> Iterator[None]:
    """Hold a trial's folder for a sweep; the kernel gives the lock of a killed process back.

    A process of the same sweep is not waited for: it has ended the trial early, and holds it until it gets another one.

    Raises:
        Leaving: the process is to leave while it waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a+") as file:
        while not _is_taken(file) and _holder(file) != sweep:
            if told_to_leave.is_set():
                raise Leaving("its process was told to end; another sweep of this home runs it")
            with aside():  # one look after the other: however long the other trains, this one does not hang
                time.sleep(_LOOK_SECONDS)
        file.truncate(0)
        file.write(sweep)
        file.flush()
        yield


def _is_taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
