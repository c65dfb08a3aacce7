"""Between the ranks of a larger trial and the trial's actor. It imports nothing heavy: it is a process of its own."""

from collections import deque
from typing import Any


class Mailbox:
    """Reports one way, the wish to stop or to leave the other."""

    def __init__(self) -> None:
        self._reports: deque[dict[str, Any]] = deque()
        self._stopped = self._left = False

    def post(self, report: dict[str, Any]) -> bool:
        """Leave a report; returns whether the trial must stop."""
        self._reports.append(report)
        return self._stopped

    def take(self) -> list[dict[str, Any]]:
        """The reports since the last call."""
        taken = list(self._reports)
        self._reports.clear()
        return taken

    def stop(self) -> None:
        """The trial must stop at its next report."""
        self._stopped = True

    def leave(self) -> None:
        """The trial's processes must end, and save it first."""
        self._left = True

    def must_leave(self) -> bool:
        """Whether `leave` was called."""
        return self._left
