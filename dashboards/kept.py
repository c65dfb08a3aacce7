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

    def get(
        self,
        name: Hashable,
        since: float,
        read: Callable[[], Explorer],
        unchanged: Callable[[Explorer], Explorer | None] = lambda sweep: None,
    ) -> Explorer:
        """A sweep as it stood at some moment from `since` on: kept, or read now in place of an earlier one.

        Of those who ask for one sweep at once, one reads it, and the others wait for the same.

        Args:
            unchanged: gives the kept sweep a new moment if nothing has changed; None if it must be read.
        """
        with self._lock:
            reader = self._readers.setdefault(name, threading.Lock())
        with reader:
            with self._lock:
                found = self._sweeps.pop(name, None)
            if found is not None and found.moment < since:
                found = unchanged(found)  # an earlier one is given up before a new one takes its memory
            if found is None:
                found = read()
            with self._lock:
                self._sweeps[name] = found
                while len(self._sweeps) > 1 and self._trials() > self._most:
                    del self._sweeps[next(iter(self._sweeps))]
            return found

    def _trials(self) -> int:
        return sum(len(sweep.view.record.trials) for sweep in self._sweeps.values())
