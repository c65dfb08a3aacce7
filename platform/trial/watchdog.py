"""A trial that hangs, or is killed, cannot say so: word is left in its folder, and the next attempt passes it on."""

import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

from recallfront.platform.home import write_whole
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.home.vault import fetch_file, forget, is_remote, keep_file
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial.checkpoints import remove_here
from recallfront.platform.trial.quiet import aside_seconds
from recallfront.platform.trial.workplace import RESULT, Workplace
from recallfront.sweeps.base import seal, unseal
from recallfront.sweeps.trial import TrialConfig

_GRACE = 30.0  # seconds beyond the time limit: the trial ends itself between two steps where it can
# seconds of one measurement, wait or transfer that do not count; a hung one ends then
_LONGEST_ASIDE = 3600.0
_WORD = "ended.json"
_WORD_SECONDS = 30.0  # for a home at an address to take or give word; without it the attempt is made again


class Watchdog:
    """Watches one trial in this process for as long as it runs, and ends the process of one that hangs."""

    def __init__(self, config: TrialConfig, place: Workplace) -> None:
        self._limit = config.resources.time_limit_seconds
        self._folder = place.folder(config)
        self._began, self._aside = time.monotonic(), aside_seconds()
        self._timer: threading.Timer | None = None
        self._lock, self._stopped, self._rests = threading.Lock(), False, False

    def guard(self, reports: Generator[Report, None, None]) -> Generator[Report, None, None]:
        """The same reports; or, where an earlier attempt was ended from outside, one report of that."""
        word, damage = None, []
        try:
            word = take_word(self._folder)
        except ValueError as error:
            damage = [f"a damaged {_WORD} was dropped ({error})"]
        if word is not None and not (self._folder / RESULT).exists():  # it may have come too late
            reports.close()
            if is_remote(self._folder):
                remove_here(self._folder)
            yield word
            return
        self._look()
        try:
            for report in reports:
                report.notices[:0] = damage
                since = self._rest()
                yield report  # a trial that a rule ends rests here until its process gets another one
                self._go_on(since)
        finally:
            reports.close()
            self.stop()

    def stop(self) -> None:
        """End the watch for good; a look that waits at this moment does nothing either."""
        with self._lock:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()

    def _rest(self) -> float:
        with self._lock:
            self._rests = True
            if self._timer is not None:
                self._timer.cancel()
        return time.monotonic()

    def _go_on(self, since: float) -> None:
        with self._lock:
            self._rests = False
            self._began += time.monotonic() - since
        self._look()

    def _look(self) -> None:
        if self._limit is None:
            return
        # The lock is held until the process ends, so that `stop` cannot return and the next trial begin in between.
        with self._lock:
            if self._stopped or self._rests:
                return
            counted = time.monotonic() - self._began - (aside_seconds(_LONGEST_ASIDE) - self._aside)
            left = self._limit + _GRACE - counted
            if left <= 0:
                failure = f"exceeded the time limit of {self._limit:g} s, and had to be ended from outside"
                try:
                    leave_word(self._folder, Report(step=0, status=Status.TIMEOUT, failure=failure))
                finally:
                    os._exit(1)
            self._timer = threading.Timer(left + 0.01, self._look)
            self._timer.daemon = True
            self._timer.start()


def leave_word(folder: Path, report: Report) -> None:
    """Have the next attempt of the trial of this folder end at once, with this report."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / _WORD, seal(report.to_json()))
    keep_file(folder / _WORD, patience=_WORD_SECONDS)


def take_word(folder: Path) -> Report | None:
    """The report that was left for this attempt, if any.

    Raises:
        ValueError: it is damaged; it is removed, too.
    """
    path = folder / _WORD
    try:
        fetch_file(path, patience=_WORD_SECONDS)
    except HomeAway:  # the trial itself says so, where it needs more
        return None
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    path.unlink()
    forget(path, patience=_WORD_SECONDS)
    return Report.from_json(unseal(text))
