"""A thread that goes along with a sweep."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from recallfront.platform.errors import UsageError, one_line

_LEAVE_SECONDS = 5.0
_LOG = logging.getLogger("recallfront")


class Companion(ABC):
    """Runs `_run` in a thread of its own for as long as it is entered; `_done` is set when it must end."""

    def __init__(self, name: str) -> None:
        self._done = threading.Event()
        self._failing: set[str] = set()  # what failed when it was last tried
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

    @contextmanager
    def _survives(self, what: str) -> Iterator[None]:
        """Go on whatever is raised within, as the thread is needed to the end.

        Only the first of several failures in a row is told. `what` says in a warning what cannot be done, and that it
        is tried again.
        """
        try:
            yield
            self._failing.discard(what)
        except Exception as error:
            if what not in self._failing:
                kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
                _LOG.warning("%s: %s", what, kind + one_line(error))
            self._failing.add(what)

    def _wake(self) -> None:  # noqa: B027 (a subclass that waits only for `_done` needs nothing)
        """Let `_run` see that it is done, where it waits for something else."""
