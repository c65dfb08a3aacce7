"""The log of a sweep: what its driver does, and what its trials report and print; in the home and in MLflow."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from recallfront.platform.errors import UsageError, without_secrets
from recallfront.platform.home import home_folder, private_folder, private_opener
from recallfront.platform.results.cancellation import DRIVER
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.lock import driver_is_gone
from recallfront.platform.tracking.ledger import (
    SweepSummary,
    UnknownRecord,
    find_run,
    find_sweep,
    read_artifact,
    reading,
)
from recallfront.platform.tracking.store import find_store

LOG_FILE: Final = "log.txt"  # the artifact of the sweep's run
_DIGITS = 12  # of a trial's key, at the head of its lines
_OF_THE_SWEEP = "-" * _DIGITS
_KEPT_BYTES = 16 * 2**20  # of a longer log, MLflow gets the end
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
            file.seek(max(0, size - _KEPT_BYTES))
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
    text = _read(uri, sweep, folder)
    if text is None and not (follow and _runs(sweep, folder)):
        raise UsageError(
            f"sweep {sweep.name} ({sweep.sweep_key[:8]}) has no log yet, or is of an earlier version"
        )
    yield from _of(key, (text or "").splitlines())
    told = len(text or "")
    while follow and _runs(sweep, folder):
        time.sleep(_LOOK_SECONDS)
        sweep = find_sweep(uri, sweep.run_id)
        text = _read(uri, sweep, folder) or ""
        # a line that is being written is told when it is whole
        whole = text.rfind("\n") + 1
        yield from _of(key, text[told:whole].splitlines())
        told = max(told, whole)


def _trial_key(uri: str, sweep: SweepSummary, trial: str) -> str:
    found = find_run(uri, trial)
    if found.tags.get("sweep_key") != sweep.sweep_key:
        raise UnknownRecord(f"run {trial!r} is no trial of the sweep {sweep.name} ({sweep.sweep_key[:8]})")
    return found.trial_key[:_DIGITS]


def _of(key: str | None, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        parts = line.split("  ", 2)
        if key is None or parts[1:2] == [key]:
            yield line


def _read(uri: str, sweep: SweepSummary, folder: Path) -> str | None:
    own = log_path(sweep.sweep_key, folder)
    if own.exists():
        return own.read_text(encoding="utf-8", errors="replace")
    with reading(uri) as client:
        return read_artifact(client, sweep.run_id, LOG_FILE)


def _runs(sweep: SweepSummary, folder: Path) -> bool:
    return sweep.tags.get("status") == "running" and not driver_is_gone(
        sweep.sweep_key, folder, sweep.tags.get(DRIVER)
    )
