"""Whether another home runs a sweep: its driver would write into the same runs of the tracking server as this one.

Within a home a lock tells (`lock.py`). Of another one only the store tells: a driver changes a tag of the sweep's run
again and again, and a second one watches it before it begins. No clock of two machines is compared.
"""

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from recallfront.platform.errors import UsageError
from recallfront.platform.results.cancellation import BEAT, DRIVER
from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.lease import end_driver
from recallfront.platform.sweep.lock import was_driven_here
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.ledger import UnknownRecord, find_sweep
from recallfront.sweeps.spec import SweepSpec

_LOG = logging.getLogger("recallfront")
_BEAT_SECONDS = 10.0
_WATCH_SECONDS = 30.0  # without a beat, after which a driver is taken to be gone


class Beat(Companion):
    """Shows, for as long as it is entered, that this process drives the sweep; ends it if another home does by now."""

    def __init__(
        self, recorder: Recorder, tracking_uri: str, known: Collection[str], tell_time: Callable[[], None]
    ) -> None:
        """`known`: drivers that the store may name, this one and those before it; `tell_time` notes what is spent."""
        super().__init__("beat")
        self._recorder, self._uri = recorder, tracking_uri
        self._expected = {None, recorder.driver, *known}
        self._tell_time = tell_time
        self.is_taken = False  # by a driver in another home

    def _run(self) -> None:
        number = 0
        while not self._done.wait(_BEAT_SECONDS):
            if not self._recorder.has_opened():
                continue
            driver = self._driver()
            if self._done.is_set():  # the sweep has ended while the store was asked
                return
            if driver not in self._expected:
                _LOG.error("the sweep is driven in another home now: this driver ends")
                self.is_taken = True
                self._recorder.give_up()
                end_driver()
                return
            number += 1
            told = {BEAT: f"{self._recorder.driver}-{number}", "status": "running"}
            try:
                # also of a driver that is killed: what it has spent counts
                self._tell_time()
                self._recorder.sweep_tags({f"{TAG}{name}": value for name, value in told.items()})
            except UsageError as error:  # a disk that is full may have room again
                _LOG.warning("the sweep's beat is not written: %s", error)

    def _driver(self) -> str | None:
        with suppress(UsageError):  # a store that is away tells nothing
            return last_driver(self._recorder.sweep_key, self._uri)
        return None


def last_driver(sweep_key: str, tracking_uri: str) -> str | None:
    """The driver that the store names as the sweep's last one; None if it has had none."""
    return _tags(sweep_key, tracking_uri).get(DRIVER)


def refuse_second_home(spec: SweepSpec, tracking_uri: str, home: Path, tell: Callable[[str], None]) -> None:
    """Watch a sweep that the store says is running, unless its last driver was of this home: its lock tells of that.

    Raises:
        UsageError: a driver in another home runs it.
    """
    before = _tags(spec.key, tracking_uri)
    driver = before.get(DRIVER)
    if before.get("status") != "running" or driver is None or was_driven_here(spec.key, home, driver):
        return
    called = f"sweep {spec.name} ({spec.key[:8]})"
    tell(f"{called}: looks for {_WATCH_SECONDS:g} s whether another home still runs it")
    if is_beating(spec.key, tracking_uri):
        raise UsageError(
            f"{called} is being run from another home with the same tracking server: run it in that home, or end "
            f"it with `recallfront cancel {spec.key[:12]}`"
        )


def is_beating(sweep_key: str, tracking_uri: str) -> bool:
    """Whether a sweep that the store says is running has a driver that lives, wherever; a no takes 30 s."""
    before = _tags(sweep_key, tracking_uri)
    deadline = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = _tags(sweep_key, tracking_uri)
        if now.get("status") != "running":
            return False
        if now.get(BEAT) != before.get(BEAT):
            return True
    return False


def _tags(sweep_key: str, tracking_uri: str) -> dict[str, str]:
    try:
        return find_sweep(tracking_uri, sweep_key).tags
    except UnknownRecord:
        return {}
