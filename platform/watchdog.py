"""A trial that hangs cannot look at its own clock: the watchdog ends its process, and the next attempt says why."""

import os
import threading
from collections.abc import Generator
from pathlib import Path

from recallfront.platform.records import Status
from recallfront.platform.reports import Report, Workplace
from recallfront.sweeps.trial import TrialConfig

_GRACE = 30.0  # seconds beyond the time limit: the trial ends itself between two steps where it can


class Watchdog:
    """Watches one trial in this process for as long as it runs."""

    def __init__(self, config: TrialConfig, place: Workplace) -> None:
        self._config = config
        self._marker = place.folder(config) / "overran"
        self._timer: threading.Timer | None = None

    def guard(self, reports: Generator[Report, None, None]) -> Generator[Report, None, None]:
        """The same reports; or, where an earlier attempt had to be ended, one report of that."""
        limit = self._config.resources.time_limit_seconds
        if limit is not None and self._marker.exists():
            self._marker.unlink()
            reports.close()
            failure = f"over the time limit of {limit:g} s, and had to be ended from outside"
            yield Report(step=0, status=Status.TIMEOUT, failure=failure)
            return
        if limit is not None:
            self._timer = threading.Timer(limit + _GRACE, _end_process, args=(self._marker,))
            self._timer.daemon = True
            self._timer.start()
        try:
            yield from reports
        finally:
            reports.close()
            self.stop()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _end_process(marker: Path) -> None:
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    os._exit(1)
