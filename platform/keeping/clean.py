"""Deletes what a home keeps without need: checkpoints of trials that have ended for good."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from recallfront.platform.home import home_folder
from recallfront.platform.home.vault import kept_files, kept_folders
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.remains import remove_gone
from recallfront.platform.tracking.ledger import list_sweeps, read_sweep
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.trial.checkpoints import CHECKPOINT, checkpoints, leftovers, remove_checkpoint
from recallfront.platform.trial.holding import unheld
from recallfront.platform.trial.workplace import TRIALS, trial_folder


@dataclass(frozen=True)
class Leftover:
    """Checkpoints of a trial that never goes on."""

    folder: Path  # of the trial
    status: Status
    bytes: int


def clean(
    *, home: Path | str | None = None, tracking_uri: str | None = None, dry_run: bool = False
) -> list[Leftover]:
    """Delete the checkpoints of trials that have ended for good, in every sweep of the home.

    Trials that are running or were lost go on from theirs, which are kept; and so may pruned ones of a running sweep.

    Args:
        home: the folder of all outputs.
        tracking_uri: the MLflow store; by default that of the home.
        dry_run: only say what would be deleted.

    Raises:
        UsageError: there is no store, or it does not answer.
    """
    root = home_folder(home).resolve()
    uri = prepare_store(tracking_uri, root, create=False)
    statuses = _statuses(uri)
    found = []
    if not dry_run:
        remove_gone(root)
    # names from the store are only compared: a path that it names is never deleted
    names = {folder.name for folder in (root / TRIALS).glob("*")} | {*kept_folders(root / TRIALS)}
    for folder in (root / TRIALS / name for name in sorted(names)):
        known = statuses.get(folder.name)
        if not known or None in known:
            continue
        # by now another sweep may run the trial
        with unheld(folder) as is_free:
            size = _size(folder) if is_free else 0
            if not size:
                continue
            found.append(Leftover(folder, min(filter(None, known)), size))
            if not dry_run:
                remove_checkpoint(folder)
    return found


def _statuses(uri: str) -> dict[str, set[Status | None]]:
    """How the trial of each folder has ended in every sweep that has it, and None if it may go on."""
    found: dict[str, set[Status | None]] = defaultdict(set)
    for sweep in list_sweeps(uri):
        record = read_sweep(uri, sweep.run_id, spec={})
        # one that was pruned may be promoted until the sweep's end
        may_go_on = {Status.PRUNED} if record.tags.get("status") == "running" else set()
        for trial in record.trials:
            code, data = trial.version
            if data is not None:
                is_over = trial.status.is_final and trial.status not in may_go_on
                name = trial_folder(trial.trial_key, code or "", data)
                found[name].add(trial.status if is_over else None)
    return found


def _size(folder: Path) -> int:
    """Bytes of a trial's checkpoints, here and at the home's address."""
    here = sum(_bytes(path) for path in [*checkpoints(folder), *leftovers(folder)])
    return here + sum(kept_files(folder / CHECKPOINT).values())


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
