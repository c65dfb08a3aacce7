"""The views of sweeps that a server keeps in mind: the latest of each, and only so many trials in all."""

import threading
from collections.abc import Callable, Hashable
from typing import Final

from recallfront.dashboards.views import SweepView

MOST_TRIALS: Final = 20_000


class Kept:
    """Shares what was read among viewers; any thread may ask."""

    def __init__(self, most_trials: int = MOST_TRIALS) -> None:
        self._most, self._lock = most_trials, threading.Lock()
        self._views: dict[Hashable, tuple[float, SweepView]] = {}  # the latest to be asked for comes last

    def get(self, name: Hashable, moment: float, read: Callable[[], SweepView]) -> SweepView:
        """A sweep's view as of a moment: kept, or read now in place of an earlier one."""
        with self._lock:
            found = self._views.pop(name, None)
            if found is not None and found[0] == moment:
                self._views[name] = found
                return found[1]
        # the earlier one is given up before the new one takes its memory
        del found
        view = read()
        with self._lock:
            self._views[name] = moment, view
            while len(self._views) > 1 and self._trials() > self._most:
                del self._views[next(iter(self._views))]
        return view

    def _trials(self) -> int:
        return sum(len(view.record.trials) for _, view in self._views.values())
