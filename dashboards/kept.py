"""The sweeps that a server keeps in mind: the latest of each, and only so many trials in all."""

import threading
from collections.abc import Callable, Hashable
from typing import Final

from recallfront.dashboards.explore import Explorer

MOST_TRIALS: Final = 20_000


class Kept:
    """Shares what was read among viewers; any thread may ask."""

    def __init__(self, most_trials: int = MOST_TRIALS) -> None:
        self._most, self._lock = most_trials, threading.Lock()
        self._sweeps: dict[Hashable, tuple[float, Explorer]] = {}  # the latest to be asked for comes last

    def get(self, name: Hashable, moment: float, read: Callable[[], Explorer]) -> Explorer:
        """A sweep as of a moment: kept, or read now in place of an earlier one."""
        with self._lock:
            found = self._sweeps.pop(name, None)
            if found is not None and found[0] == moment:
                self._sweeps[name] = found
                return found[1]
        # the earlier one is given up before the new one takes its memory
        del found
        sweep = read()
        with self._lock:
            self._sweeps[name] = moment, sweep
            while len(self._sweeps) > 1 and self._trials() > self._most:
                del self._sweeps[next(iter(self._sweeps))]
        return sweep

    def _trials(self) -> int:
        return sum(len(sweep.view.record.trials) for _, sweep in self._sweeps.values())
