"""Which sweeps have no driver any more, whatever their tags say.

Within a home its lock tells (`lock.py`). Of a driver in another home only the store tells: a driver changes a tag of
its sweep's run again and again, and whoever wants to know watches it.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from recallfront.platform.errors import UsageError
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.results.cancellation import BEAT, DRIVER
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.sweep.lease import CERTAIN_SECONDS
from recallfront.platform.sweep.lock import driver_is_gone, was_driven_here
from recallfront.platform.sweep.watch import Watch
from recallfront.platform.tracking.ledger import SweepSummary, list_sweeps

_Sign = tuple[str | None, str | None]  # the driver, and its last beat
BEAT_SECONDS = 10.0  # between two beats of a driver
SILENT_SECONDS = 30.0  # without a beat, after which a driver is taken to be gone
_SLACK_SECONDS = 5.0  # for reading the store meanwhile
_WATCHES: dict[tuple[str, str], Watch] = {}  # by store and run; a page asks again and again


def driverless(
    sweeps: Sequence[SweepSummary | SweepRecord], tracking_uri: str, home: Path, *, wait: bool
) -> set[str]:
    """The runs of those sweeps, as just read, that say that they run and have no driver any more.

    Args:
        wait: until it is certain, 30 s at most; else what this process has seen so far is told.

    Raises:
        UsageError: the store cannot be read.
    """
    running = [sweep for sweep in sweeps if sweep.tags.get("status") == "running"]
    patience = CERTAIN_SECONDS if wait else 0.0
    gone = {
        sweep.run_id
        for sweep in running
        if driver_is_gone(sweep.sweep_key, home, sweep.tags.get(DRIVER), patience=patience)
    }
    elsewhere = [sweep for sweep in running if sweep.run_id not in gone and _is_elsewhere(sweep, home)]
    return gone | watch_beats(elsewhere, tracking_uri, wait=wait)[1]


def watch_beats(
    sweeps: Sequence[SweepSummary | SweepRecord], tracking_uri: str, *, wait: bool
) -> tuple[set[str], set[str]]:
    """Of sweeps, as just read, that say that they run: runs whose driver was seen to live, and those without one."""
    left = {sweep.run_id: _sign(sweep) for sweep in sweeps}
    watches = {run: _WATCHES.setdefault((tracking_uri, run), Watch(BEAT_SECONDS)) for run in left}
    for run, sign in left.items():
        watches[run].saw(sign)
    living, silent, give_up = set[str](), set[str](), time.monotonic() + SILENT_SECONDS + _SLACK_SECONDS
    while True:
        silent |= {run for run in left if watches[run].seconds >= SILENT_SECONDS}
        left = {run: sign for run, sign in left.items() if run not in silent}
        if not (wait and left) or time.monotonic() > give_up:
            return living, silent
        time.sleep(min(1.0, BEAT_SECONDS))
        now = _look(tracking_uri, {run: watches[run] for run in left})
        living |= {run for run, sign in left.items() if now.get(run, sign) != sign}
        left = {run: sign for run, sign in left.items() if now.get(run) == sign}


def _look(tracking_uri: str, watches: Mapping[str, Watch]) -> dict[str, _Sign]:
    """The signs of what runs now, which the watches are told."""
    began = time.monotonic()
    try:
        found = list_sweeps(tracking_uri)
    except UsageError:
        for watch in watches.values():
            watch.missed()
        raise
    took = time.monotonic() - began
    signs = {sweep.run_id: _sign(sweep) for sweep in found if sweep.tags.get("status") == "running"}
    for run in watches.keys() & signs.keys():
        watches[run].saw(signs[run], took=took)
    return signs


def _sign(sweep: SweepSummary | SweepRecord) -> _Sign:
    return sweep.tags.get(DRIVER), sweep.tags.get(BEAT)


def beat_sign(driver: str, number: int) -> str:
    """What a driver writes at a beat: never the same twice, and when it was by the clock of its machine."""
    return f"{driver}-{number}@{time.time():.1f}"


def has_just_beaten(sweep: SweepSummary | SweepRecord) -> bool:
    """Whether the last beat is of a moment ago if clocks agree: enough to tell, not enough to delete."""
    moment = sweep.tags.get(BEAT, "").rpartition("@")[2]
    with suppress(ValueError):  # of another version's beat
        return abs(time.time() - float(moment)) < 2 * BEAT_SECONDS
    return False


def _is_elsewhere(sweep: SweepSummary | SweepRecord, home: Path) -> bool:
    """Whether the driver is of another home, and shows a beat, which those of the first versions did not."""
    driver = sweep.tags.get(DRIVER)
    try:
        return driver is not None and not was_driven_here(sweep.sweep_key, home, driver)
    except HomeAway:  # nobody knows
        return False
