"""A thread that goes along with a sweep."""

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

_LEAVE_SECONDS = 5.0


class Companion(ABC):
    """Runs `_run` in a thread of its own for as long as it is entered; `_done` is set when it must end."""

    def __init__(self, name: str) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._wake()
        # of a sweep that is interrupted nobody waits for a picture, or for a server that hangs: it is a daemon's thread
        self._thread.join(None if kind is None else _LEAVE_SECONDS)

    @abstractmethod
    def _run(self) -> None: ...

    def _wake(self) -> None:  # noqa: B027 (a subclass that waits only for `_done` needs nothing)
        """Let `_run` see that it is done, where it waits for something else."""
