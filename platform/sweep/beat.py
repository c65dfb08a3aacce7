"""Whether another home runs a sweep: its driver would write into the same runs of the tracking server as this one.

Within a home a lock tells (`lock.py`). Of another one only the store tells: a driver changes a tag of the sweep's run
again and again, and a second one watches it before it begins. No clock of two machines is compared.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from recallfront.platform.errors import UsageError
from recallfront.platform.home import private_folder, private_opener
from recallfront.platform.results.cancellation import DRIVER
from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.ledger import UnknownRecord, find_sweep
from recallfront.sweeps.spec import SweepSpec

_BEAT: Final = "beat"  # tag
_BEAT_SECONDS = 10.0
_WATCH_SECONDS = 30.0  # without a beat, after which a driver is taken to be gone


class Beat(Companion):
    """Shows, for as long as it is entered, that this process drives the sweep."""

    def __init__(self, recorder: Recorder, mark: Path) -> None:
        """mark: a file of the home, which tells its next driver that this one was of the same home."""
        super().__init__("beat")
        self._recorder = recorder
        private_folder(mark.parent)
        with open(mark, "w", opener=private_opener) as file:
            file.write(recorder.driver)

    def _run(self) -> None:
        number = 0
        while not self._done.wait(_BEAT_SECONDS):
            if self._recorder.has_opened():
                number += 1
                self._recorder.sweep_tags({f"{TAG}{_BEAT}": f"{self._recorder.driver}-{number}"})


def refuse_second_home(spec: SweepSpec, tracking_uri: str, mark: Path, tell: Callable[[str], None]) -> None:
    """Watch a sweep that the store says is running, unless its last driver was of this home, which holds its lock.

    Raises:
        UsageError: a driver in another home runs it.
    """
    before = _tags(spec, tracking_uri)
    driver = before.get(DRIVER)
    if before.get("status") != "running" or driver is None or (mark.exists() and mark.read_text() == driver):
        return
    called = f"sweep {spec.name} ({spec.key[:8]})"
    tell(f"{called}: looks for {_WATCH_SECONDS:g} s whether another home still runs it")
    deadline = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = _tags(spec, tracking_uri)
        if now.get("status") != "running":
            return
        if now.get(_BEAT) != before.get(_BEAT):
            raise UsageError(
                f"{called} is being run from another home with the same tracking server: run it in that home, or end "
                f"it with `recallfront cancel {spec.key[:12]}`"
            )


def _tags(spec: SweepSpec, tracking_uri: str) -> dict[str, str]:
    try:
        return find_sweep(tracking_uri, spec.key).tags
    except UnknownRecord:
        return {}
