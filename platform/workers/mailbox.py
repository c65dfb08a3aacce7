"""Between the ranks of a larger trial and the trial's actor. It imports nothing heavy: it is a process of its own.

Reports are JSON text: to unpickle the version of PyTorch that one names, a process would import PyTorch.
"""

import asyncio
from collections import deque
from contextlib import suppress


class Mailbox:
    """Reports one way, the wish to stop or to leave the other."""

    def __init__(self) -> None:
        self._reports: deque[str] = deque()
        self._any = asyncio.Event()
        self._stopped = self._left = False

    async def post(self, report: str) -> bool:
        """Leave a report; returns whether the trial must stop."""
        self._reports.append(report)
        self._any.set()
        return self._stopped

    async def take(self, patience: float) -> list[str]:
        """The reports since the last call; if there is none, it waits so many seconds for one."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._any.wait(), patience)
        taken = list(self._reports)
        self._reports.clear()
        self._any.clear()
        return taken

    async def stop(self) -> None:
        """The trial must stop at its next report."""
        self._stopped = True

    async def leave(self) -> None:
        """The trial's processes must end, and save it first."""
        self._left = True

    async def must_leave(self) -> bool:
        """Whether `leave` was called."""
        return self._left
