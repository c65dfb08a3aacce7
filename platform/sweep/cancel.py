"""Cancels a sweep that another process runs: asks its driver through the tracking store, and waits until it has ended.

Ray's job client and MLflow are imported where they are first used, so that the command starts fast.
"""

import re
import socket
import time
from pathlib import Path
from typing import Final

from recallfront.platform.cluster.jobs import end_job, job_of_sweep
from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder, user_name
from recallfront.platform.results.cancellation import BEAT, CANCEL, DRIVER, CancelRequest
from recallfront.platform.results.records import TAG, counts_of, say_counts
from recallfront.platform.sweep.lease import CERTAIN_SECONDS
from recallfront.platform.sweep.lock import driver_is_gone, was_driven_here
from recallfront.platform.tracking.ledger import SweepSummary, UnknownRecord, find_sweep, writing
from recallfront.platform.tracking.store import find_store, prepare_store

PATIENCE_SECONDS: Final = 60.0  # for the driver to answer: its store may be slow
_LOOK_SECONDS = 0.5
_JOB = re.compile(r".+-([0-9a-f]{8})-\d{9,11}")  # the name that `submit` gives


def cancel(
    name: str,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    by: str | None = None,
) -> str:
    """Cancel a sweep that runs, and wait until its trials are saved and its workers gone -> what was done.

    Args:
        name: a sweep, or the job that `submit` has made of it.
        home: the folder of all outputs, if the sweep runs on this machine.
        tracking_uri: the MLflow store; with `address`, by default the one that the job uses.
        address: the dashboard of a cluster; then `name` is a job of it.
        by: who asks; by default the user of this process.

    Raises:
        UsageError: there is no such sweep or job, it does not run, or its driver does not answer.
    """
    began = time.monotonic()
    if address is None:
        uri = find_store(tracking_uri, home_folder(home))
        sweep = request(name, tracking_uri=uri, home=home, by=by)
        return _wait(uri, sweep, began, home_folder(home))
    key, of_job = job_of_sweep(address, name)
    uri = prepare_store(tracking_uri or of_job, home_folder(home), create=False)
    try:
        said = _wait(uri, request(key, tracking_uri=uri, home=home, by=by), began, home_folder(home))
    except UsageError:  # it has recorded nothing yet, or its driver is stuck
        end_job(address, name, at_once=True)
        return f"job {name} is stopped; submit it again to resume it"
    end_job(address, name)
    return said


def request(
    name: str, *, tracking_uri: str, home: Path | str | None = None, by: str | None = None
) -> SweepSummary:
    """Ask a sweep's driver to end -> the sweep. Raises UsageError if there is no such sweep, or it does not run."""
    sweep = _find(tracking_uri, name)
    state = sweep.tags.get("status", "unknown")
    called = f"sweep {sweep.name} ({sweep.sweep_key[:8]})"
    if state != "running":
        raise UsageError(f"{called} does not run: it is {state}")
    if driver_is_gone(sweep.sweep_key, home_folder(home), sweep.tags.get(DRIVER), patience=CERTAIN_SECONDS):
        raise UsageError(f"{called} does not run: its driver was killed; run it again to resume it")
    driver = sweep.tags.get(DRIVER)
    if driver is None:
        raise UsageError(
            f"{called} is run by an earlier version, which takes no requests: press Ctrl-C there"
        )
    asked = CancelRequest(driver, by or f"{user_name() or 'somebody'}@{socket.gethostname()}", time.time())
    with writing(tracking_uri) as client:
        client.set_tag(sweep.run_id, TAG + CANCEL, asked.to_json())
    return sweep


def _is_held(sweep: SweepSummary, home: Path) -> bool:
    """Whether a process of this home drives a sweep, as its lock tells, though the store may not."""
    key, driver = sweep.sweep_key, sweep.tags[DRIVER]
    return bool(was_driven_here(key, home, driver)) and not driver_is_gone(key, home, driver)


def _find(tracking_uri: str, name: str) -> SweepSummary:
    try:
        return find_sweep(tracking_uri, name)
    except UnknownRecord:
        job = _JOB.fullmatch(name.strip())
        if job is None:
            raise
        return find_sweep(tracking_uri, job[1])


def _wait(uri: str, sweep: SweepSummary, began: float, home: Path) -> str:
    called, lives = f"sweep {sweep.name} ({sweep.sweep_key[:8]})", False
    while time.monotonic() < began + PATIENCE_SECONDS:
        now = find_sweep(uri, sweep.run_id)
        state = now.tags.get("status")
        if now.tags.get(DRIVER) != sweep.tags[DRIVER]:
            raise UsageError(f"{called} was ended and begun again meanwhile: cancel it again")
        if state == "interrupted":
            counts = say_counts(counts_of(now.tags))
            return f"{called} is cancelled after {time.monotonic() - began:.0f} s: {counts}; run it again to resume it"
        if state != "running":
            return f"{called} had ended before it was cancelled: it is {state}"
        lives = lives or now.tags.get(BEAT) != sweep.tags.get(BEAT)
        time.sleep(_LOOK_SECONDS)
    if not (lives or _is_held(sweep, home)):
        raise UsageError(
            f"{called}: its driver has given no sign of life for {PATIENCE_SECONDS:g} s: it is gone, or cannot reach "
            "the store; the request stays"
        )
    raise UsageError(
        f"{called}: its driver has not answered in {PATIENCE_SECONDS:g} s; the request stays, and a driver that "
        "reaches the store will take it"
    )
