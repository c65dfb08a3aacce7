"""How a trial's process is told to end: SIGTERM, as of a scheduler, or of `recallfront cancel`.

Its trial is checkpointed first, at the next step.
"""

import signal
import threading
from typing import Final

from recallfront.platform.results.status import Status, TrialFailure

LEFT: Final = "left"  # key in the details of the last report of a trial that its node made go on elsewhere


class Leaving(TrialFailure):
    """The trial's process was told to end; a checkpoint of the step that it had reached is there."""

    status = Status.LOST


def heed_termination() -> threading.Event:
    """An event that SIGTERM sets from now on; it never is where signals are not this thread's to take."""
    told = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    return told
