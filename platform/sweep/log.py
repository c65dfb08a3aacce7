"""The log of a sweep: what its driver does, and what its trials report and print; in the home and in MLflow."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from recallfront.platform.errors import UsageError, without_secrets
from recallfront.platform.home import home_folder, merge_lines, private_folder, private_opener
from recallfront.platform.results.cancellation import DRIVER
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.driverless import driverless
from recallfront.platform.tracking.ledger import (
    SweepSummary,
    UnknownRecord,
    find_run,
    find_sweep,
    read_artifact,
    read_trials,
    reading,
)
from recallfront.platform.tracking.store import find_store

LOG_FILE: Final = "log.txt"  # the artifact of the sweep's run
_LEAST_DIGITS = 6  # that name a trial
_DIGITS = 12  # of a trial's key, at the head of its lines
_OF_THE_SWEEP = "-" * _DIGITS
KEPT_BYTES: Final = 16 * 2**20  # of a longer log, MLflow gets the end
_BYTES_A_SECOND = 20_000  # that sending it to MLflow may come to, while the sweep runs
_LEAST_SECONDS = 30.0  # between two times that it is sent
_LOOK_SECONDS = 1.0


class SweepLog:
    """Appends to the log of one sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._due_at, self._sent = 0.0, 0
        private_folder(path.parent)

    def write(self, text: str, trial_key: str | None = None) -> None:
        """Add lines about a trial, or about the sweep."""
        head = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {(trial_key or _OF_THE_SWEEP)[:_DIGITS]}  "
        with open(self.path, "a", encoding="utf-8", opener=private_opener) as file:
            file.writelines(f"{head}{line}\n" for line in without_secrets(text).splitlines())

    def report(self, trial_key: str, report: Report) -> None:
        """Add what a trial reports: its output, its latest figures, and how it ended."""
        told = {name: value for name, value, *_ in report.rows if not name.startswith("learning_rate")}
        figures = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
        lines = list(report.output)
        if figures:
            lines.append(f"step {report.step}: {figures}")
        if report.status is not Status.RUNNING:
            lines.append(f"{report.status.value} at step {report.step}: {report.failure or 'all is done'}")
            lines += (report.traceback or "").splitlines()
        if lines:
            self.write("\n".join(lines), trial_key)

    def due(self, *, last: bool = False) -> bytes | None:
        """What MLflow is to get now, in place of what it has; None if it has that, or was given some lately."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == self._sent or not (last or time.monotonic() >= self._due_at):
            return None
        self._sent = size
        with self.path.open("rb") as file:
            if size > KEPT_BYTES:
                file.seek(size - KEPT_BYTES - 1)
                file.readline()  # from the next line on
            kept = file.read()
        self._due_at = time.monotonic() + max(_LEAST_SECONDS, len(kept) / _BYTES_A_SECOND)
        return kept


def said_of(line: str) -> tuple[str, str]:
    """The first digits of the key of the trial that a line of a log is about, if any, and what the line says."""
    _, key, text = [*line.split("  ", 2), "", ""][:3]
    return key, text


def log_path(sweep_key: str, home: Path) -> Path:
    """Where the home keeps a sweep's log."""
    return home / "sweeps" / f"{sweep_key[:16]}.log"


def log_of(record: SweepRecord, home: Path, tracking_uri: str) -> SweepLog:
    """The log of a sweep, to append to: with what drivers elsewhere have added, as far as MLflow has it."""
    log = SweepLog(log_path(record.sweep_key, home))
    if (driver := record.tags.get(DRIVER)) is not None and not is_of(driver, log.path):
        # a log that cannot be read keeps no sweep from running
        with suppress(UsageError), reading(tracking_uri) as client:
            merge_lines(log.path, read_artifact(client, record.run_id, LOG_FILE) or "")
    return log


def driver_line(driver: str) -> str:
    """What the log says of the driver that writes it from there on: a copy without it is an older one."""
    return f"driver {driver}"


def is_of(driver: str, path: Path) -> bool:
    """Whether a log is one that this driver writes, or has written; one of an earlier version names no driver."""
    if not path.exists():
        return False
    said, names_one = driver_line(driver).encode(), False
    with path.open("rb") as file:
        for line in file:
            if said in line:
                return True
            names_one = names_one or driver_line("").encode() in line
    return not names_one


def read_log(
    name: str,
    trial: str | None = None,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    follow: bool = False,
) -> Iterator[str]:
    """The lines of a sweep's log, or those of one of its trials.

    Args:
        name: the sweep.
        trial: a run id or key of a trial of it, or its first 6 digits.
        home: the folder of all outputs; it has more than the store while the sweep runs.
        tracking_uri: the MLflow store.
        follow: go on with what is added, until the sweep does not run any more.

    Raises:
        UsageError: there is no such sweep or trial, or no log of it.
    """
    folder = home_folder(home)
    uri = find_store(tracking_uri, folder)
    sweep = find_sweep(uri, name)
    key = None if trial is None else _trial_key(uri, sweep, trial)
    tail = _Tail(uri, folder)
    lines, runs = tail.lines(sweep, now=True), _runs(sweep, uri, folder)
    if lines is None and not (follow and runs):
        raise UsageError(
            f"sweep {sweep.name} ({sweep.sweep_key[:8]}) has no log yet, or is of an earlier version"
        )
    yield from _of(key, lines or [])
    while follow and runs:
        time.sleep(_LOOK_SECONDS)
        sweep = find_sweep(uri, sweep.run_id)
        runs = _runs(sweep, uri, folder)
        yield from _of(key, tail.lines(sweep, now=not runs) or [])


class _Tail:
    """Tells what has been added to a log since it was asked last: to the file of this home, or to MLflow's copy.

    The file is taken if the sweep's last driver wrote it: one of before knows nothing of a driver elsewhere.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self._uri, self._folder = uri, folder
        self._place: int | None = None  # in the file of this home, once it has been read
        self._last: str | None = None  # line that was told
        self._due_at = 0.0  # when MLflow may be asked again
        # the driver and the size of the file that was looked at
        self._judged: tuple[str | None, int] | None = None
        self._is_here = False

    def lines(self, sweep: SweepSummary, *, now: bool) -> list[str] | None:
        """The new lines that are whole; None if there is no log. MLflow is asked now and then, or `now`."""
        own = log_path(sweep.sweep_key, self._folder)
        if self._has_newest(own, sweep.tags.get(DRIVER)):
            found = self._of_file(own)
        elif not now and time.monotonic() < self._due_at:
            return []
        else:
            self._due_at, self._place = time.monotonic() + _LEAST_SECONDS, None
            with reading(self._uri) as client:
                text = read_artifact(client, sweep.run_id, LOG_FILE)
            if text is None:
                return self._of_file(own) if own.exists() else None
            found = self._after_last(text[: text.rfind("\n") + 1].splitlines())
        self._last = found[-1] if found else self._last
        return found

    def _has_newest(self, own: Path, driver: str | None) -> bool:
        size = own.stat().st_size if own.exists() else -1
        if (
            self._judged is None
            or self._judged[0] != driver
            or not (self._is_here or self._judged[1] == size)
        ):
            self._judged = driver, size
            self._is_here = own.exists() and (driver is None or is_of(driver, own))
        return self._is_here

    def _of_file(self, own: Path) -> list[str]:
        with own.open("rb") as file:
            file.seek(self._place or 0)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        lines = whole.decode("utf-8", errors="replace").splitlines()
        is_first, self._place = self._place is None, (self._place or 0) + len(whole)
        return self._after_last(lines) if is_first else lines

    def _after_last(self, lines: list[str]) -> list[str]:
        """MLflow's copy loses its beginning as it grows, so that only a line tells the place."""
        if self._last not in lines:
            return lines
        return lines[len(lines) - lines[::-1].index(self._last) :]


def _trial_key(uri: str, sweep: SweepSummary, trial: str) -> str:
    """Of a trial of this sweep, though another one may have it too; else of the rerun that is meant."""
    digits = trial.strip().lower()
    with reading(uri) as client:
        trials = read_trials(client, sweep.run_id)
    own = {
        one.trial_key for one in trials if digits in (one.run_id[: len(digits)], one.trial_key[: len(digits)])
    }
    if len(own) == 1 and len(digits) >= _LEAST_DIGITS:
        return own.pop()[:_DIGITS]
    found = find_run(uri, trial)
    if found.tags.get("sweep_key") != sweep.sweep_key:
        raise UnknownRecord(f"run {trial!r} is not a trial of the sweep {sweep.name} ({sweep.sweep_key[:8]})")
    return found.trial_key[:_DIGITS]


def _of(key: str | None, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        parts = line.split("  ", 2)
        if key is None or parts[1:2] == [key]:
            yield line


def _runs(sweep: SweepSummary, uri: str, folder: Path) -> bool:
    if sweep.tags.get("status") != "running":
        return False
    return not driverless([sweep], uri, folder, wait=False, by_clock=True)
