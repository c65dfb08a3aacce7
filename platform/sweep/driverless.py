"""Which sweeps have no driver any more, whatever their tags say.

Within a home its lock tells (`lock.py`). Of a driver in another home only the store tells: a driver changes a tag of
its sweep's run again and again, and whoever wants to know watches it.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from recallfront.platform.errors import UsageError
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.results.cancellation import BEAT, DRIVER
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.sweep.lease import CERTAIN_SECONDS
from recallfront.platform.sweep.lock import driver_is_gone, was_driven_here
from recallfront.platform.sweep.watch import Watch
from recallfront.platform.tracking.ledger import SweepSummary, UnknownRecord, find_sweep

_Sign = tuple[str | None, str | None]  # the driver, and its last beat
BEAT_SECONDS = 10.0  # between two beats of a driver
SILENT_SECONDS = 30.0  # without a beat, after which a driver is taken to be gone
_SLACK_SECONDS = 5.0  # for reading the store meanwhile
_LONG_SECONDS = 300.0  # since the last beat: no clock is that far off
_WATCHES: dict[tuple[str, str], Watch] = {}  # by store and run; a page asks again and again


def driverless(
    sweeps: Sequence[SweepSummary | SweepRecord],
    tracking_uri: str,
    home: Path,
    *,
    wait: bool,
    by_clock: bool = False,
) -> set[str]:
    """The runs of those sweeps, as just read, that say that they run and have no driver any more.

    Args:
        wait: until it is certain, 30 s at most; else what this process has seen so far is told.
        by_clock: take a driver elsewhere that has just beaten for living, and one that has not for minutes for gone,
            as if all machines' clocks agreed: enough to tell, not to delete.

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
    told = {sweep.run_id: _by_clock(sweep) for sweep in elsewhere} if by_clock else {}
    gone |= {run for run, lives in told.items() if lives is False}
    doubtful = [sweep for sweep in elsewhere if told.get(sweep.run_id) is None]
    return gone | watch_beats(doubtful, tracking_uri, wait=wait)[1]


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
    signs = {}
    for run, watch in watches.items():
        began = time.monotonic()
        try:
            sweep = find_sweep(tracking_uri, run)
        except UnknownRecord:  # it was deleted meanwhile
            continue
        except UsageError:
            watch.missed()
            raise
        if sweep.tags.get("status") == "running":
            signs[run] = _sign(sweep)
            watch.saw(signs[run], took=time.monotonic() - began)
    return signs


def _sign(sweep: SweepSummary | SweepRecord) -> _Sign:
    return sweep.tags.get(DRIVER), sweep.tags.get(BEAT)


def beat_sign(driver: str, number: int) -> str:
    """What a driver writes at a beat: never the same twice, and when it was by the clock of its machine."""
    return f"{driver}-{number}@{time.time():.1f}"


def _by_clock(sweep: SweepSummary | SweepRecord) -> bool | None:
    """Whether the driver lives, if clocks agree; None: its last beat does not tell."""
    try:
        age = time.time() - float(sweep.tags.get(BEAT, "").rpartition("@")[2])
    except ValueError:  # none yet, or of an earlier version
        return None
    if abs(age) < 2 * BEAT_SECONDS:
        return True
    return False if age > _LONG_SECONDS else None


def _is_elsewhere(sweep: SweepSummary | SweepRecord, home: Path) -> bool:
    """Whether the driver is of another home, and shows a beat, which those of the first versions did not."""
    driver = sweep.tags.get(DRIVER)
    try:
        return driver is not None and not was_driven_here(sweep.sweep_key, home, driver)
    except HomeAway:  # nobody knows
        return False
