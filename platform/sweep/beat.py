"""Whether another home runs a sweep: its driver would write into the same runs of the tracking server as this one.

A driver changes a tag of the sweep's run again and again, and a second one watches it before it begins.
"""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from recallfront.platform.errors import UsageError
from recallfront.platform.results.cancellation import BEAT, DRIVER
from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.driverless import BEAT_SECONDS, SILENT_SECONDS, beat_sign, watch_beats
from recallfront.platform.sweep.lease import end_driver
from recallfront.platform.sweep.lock import was_driven_here
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.ledger import SweepSummary, UnknownRecord, find_sweep, writing
from recallfront.sweeps.spec import SweepSpec

_LOG = logging.getLogger("recallfront")


class Beat(Companion):
    """Shows, for as long as it is entered, that this process drives the sweep.

    It tells the store directly: in the writer's queue a sign of life would wait for uploads, and for the backlog.
    """

    def __init__(self, recorder: Recorder, tracking_uri: str) -> None:
        super().__init__("beat")
        self._recorder, self._uri = recorder, tracking_uri

    def _run(self) -> None:
        number = 0
        while not self._done.wait(BEAT_SECONDS):
            run_id = self._recorder.sweep_run_id()
            if not run_id:  # it has no run yet, or another driver has it
                continue
            number += 1
            # without a beat a driver that lives is taken for gone
            with (
                self._survives("the driver cannot tell the store that it lives, and tries again"),
                writing(self._uri) as client,
            ):
                client.set_tag(run_id, f"{TAG}{BEAT}", beat_sign(self._recorder.driver, number))


class Takeover(Companion):
    """Ends this driver if, while it is entered, another home drives the sweep; tells the time that this one spends."""

    def __init__(
        self, recorder: Recorder, tracking_uri: str, known: Collection[str], tell_time: Callable[[], None]
    ) -> None:
        """`known`: drivers that the store may name, this one and those before it; `tell_time` notes what is spent."""
        super().__init__("takeover")
        self._recorder, self._uri = recorder, tracking_uri
        self._expected = {None, recorder.driver, *known}
        self._tell_time = tell_time
        self.has_come = False

    def _run(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            if not self._recorder.has_opened():
                continue
            driver = None
            with self._survives(
                "the driver cannot see whether another home drives the sweep, and looks again"
            ):
                driver = self._driver()
            if self._done.is_set():  # the sweep has ended while the store was asked
                return
            if driver not in self._expected:
                _LOG.error("the sweep is driven in another home now: this driver ends")
                self.has_come = True
                try:
                    self._recorder.give_up()
                finally:  # also on a full disk
                    end_driver()
                return
            # a disk that is full may have room again
            with self._survives("the time that the sweep takes is not noted, and is noted later"):
                # also of a driver that is killed: what it has spent counts
                self._tell_time()
                self._recorder.sweep_tags({f"{TAG}status": "running"})

    def _driver(self) -> str | None:
        with suppress(UsageError):  # a store that is away tells nothing
            return last_driver(self._recorder.sweep_key, self._uri)
        return None


def last_driver(sweep_key: str, tracking_uri: str) -> str | None:
    """The driver that the store names as the sweep's last one; None if it has had none."""
    sweep = _find(sweep_key, tracking_uri)
    return None if sweep is None else sweep.tags.get(DRIVER)


def refuse_second_home(spec: SweepSpec, tracking_uri: str, home: Path, tell: Callable[[str], None]) -> None:
    """Watch a sweep that the store says is running, unless its last driver was of this home: its lock tells of that.

    Raises:
        UsageError: a driver in another home runs it.
    """
    sweep = _find(spec.key, tracking_uri)
    if sweep is None or sweep.tags.get("status") != "running":
        return
    driver = sweep.tags.get(DRIVER)
    if driver is None or was_driven_here(spec.key, home, driver):
        return
    called = f"sweep {spec.name} ({spec.key[:8]})"
    tell(f"{called}: looks for {SILENT_SECONDS:g} s whether another home still runs it")
    living, _ = watch_beats([sweep], tracking_uri, wait=True)
    if living:
        raise UsageError(
            f"{called} is being run from another home with the same tracking server: run it in that home, or end "
            f"it with `recallfront cancel {spec.key[:8]}`"
        )


def _find(sweep_key: str, tracking_uri: str) -> SweepSummary | None:
    try:
        return find_sweep(tracking_uri, sweep_key)
    except UnknownRecord:
        return None
