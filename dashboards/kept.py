"""The sweeps that a server keeps in mind: the latest of each, and only so many trials in all."""

import threading
from collections.abc import Callable, Hashable
from typing import Final
from weakref import WeakValueDictionary

from recallfront.dashboards.explore import Explorer

MOST_KEPT: Final = 20_000


class Kept:
    """Shares what was read among viewers; any thread may ask."""

    def __init__(self, most_trials: int = MOST_KEPT) -> None:
        self._most, self._lock = most_trials, threading.Lock()
        self._sweeps: dict[Hashable, Explorer] = {}  # the latest to be asked for comes last
        self._readers: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()

    def get(self, name: Hashable, since: float, read: Callable[[], Explorer]) -> Explorer:
        """A sweep as it stood at some moment from `since` on: kept, or read now in place of an earlier one.

        Of those who ask for one sweep at once, one reads it, and the others wait for the same.
        """
        with self._lock:
            reader = self._readers.setdefault(name, threading.Lock())
        with reader:
            if (found := self._known(name, since)) is not None:
                return found
            sweep = read()
            with self._lock:
                self._sweeps[name] = sweep
                while len(self._sweeps) > 1 and self._trials() > self._most:
                    del self._sweeps[next(iter(self._sweeps))]
            return sweep

    def _known(self, name: Hashable, since: float) -> Explorer | None:
        """The sweep that is kept; an earlier one is given up before a new one takes its memory."""
        with self._lock:
            found = self._sweeps.pop(name, None)
            if found is None or found.moment < since:
                return None
            self._sweeps[name] = found
            return found

    def _trials(self) -> int:
        return sum(len(sweep.view.record.trials) for sweep in self._sweeps.values())
