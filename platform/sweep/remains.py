"""What a home keeps of a sweep."""

import logging
import re
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from recallfront.platform.errors import root_cause
from recallfront.platform.home.vault import forget, kept_folders
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.tracking.ledger import list_sweeps, read_deleted, read_sweep, writing
from recallfront.platform.trial.holding import unheld
from recallfront.platform.trial.workplace import TRIALS, trial_folder

_LOG = logging.getLogger("recallfront")
_GONE: Final = ".gone-"  # begins the name of a trial's folder that is being deleted


def remains(record: SweepRecord, home: Path, others: Iterable[SweepRecord] = ()) -> list[Path]:
    """The files and folders of a sweep, but for folders of trials that other sweeps have as well.

    Its key and those of its trials come from a store, which may be edited: only keys of digits lead to a path.
    """
    short = record.sweep_key[:16]
    if not re.fullmatch("[0-9a-f]{64}", record.sweep_key):
        return []
    shared = {name for other in others for name in trial_folders(other)}
    own = trial_folders(record) - shared
    found = [path for path in _inside(home / TRIALS) if path.name in own]
    found += [
        path
        for folder in ("sweeps", "spool")
        for path in _inside(home / folder)
        if path.name.startswith(short)
    ]
    # of trials of several workers, Ray Train's own
    trains = {f"train-{name.partition('-')[0]}" for name in own}
    found += [path for path in _inside(home / "train") if path.name in trains]
    # of these the name holds the study's, which only the folder itself can tell
    found += [
        path
        for folder in ("fronts", "tune")
        for path in _inside(home / folder)
        if path.name.endswith(f"-{short[:8]}")
    ]
    # the lock is held while the rest is deleted, and says nothing of a sweep
    return [path for path in found if path.suffix not in (".lock", ".driver")]


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, here or at the home's address."""
    return [
        folder / name for name in sorted({path.name for path in folder.glob("*")} | {*kept_folders(folder)})
    ]


def remove(path: Path) -> bool:
    """Delete a file or a folder with all in it, here and at the home's address; of a link only the link.

    A trial's folder stays if a process runs in it -> whether it is gone.
    """
    if path.parent.name != TRIALS:
        forget(path)
        _delete(path)
        return True
    with unheld(path) as is_free:
        if not is_free:
            return False
        forget(path)
        # NFS removes no folder with an open file in it, as the lock is here: it loses its name first
        aside = path.with_name(f"{_GONE}{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):  # it may be at the home's address alone
            path.rename(aside)
    try:
        _delete(aside)
    except OSError as error:
        _LOG.warning("%s stays: %s; the next delete or clean takes it along", aside, root_cause(error))
    return True


def remove_gone(home: Path) -> None:
    """Delete what an interrupted deletion has left of trials' folders, as far as that is possible now."""
    for path in (home / TRIALS).glob(f"{_GONE}*"):
        with suppress(OSError):
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def forget_deleted(tracking_uri: str, sweep_key: str, home: Path) -> None:
    """Delete what the home keeps of a sweep that was deleted in MLflow: else its next run would bring it back."""
    gone = read_deleted(tracking_uri, sweep_key)
    if gone is None:
        return
    remove_gone(home)
    others = [read_sweep(tracking_uri, other.run_id, spec={}) for other in list_sweeps(tracking_uri)]
    for path in remains(gone, home, others):
        # the log is this run's by now, and the spool makes anew what is gone
        is_folder = not path.is_symlink() and (path.is_dir() or not path.exists())
        if not is_folder or path.parent.name not in (TRIALS, "sweeps"):
            continue
        if not remove(path):
            _LOG.warning("%s stays: another sweep runs a trial in it", path)
    with writing(tracking_uri) as client:
        for trial in gone.trials:
            if trial.tags["deleted"] == "False":
                client.delete_run(trial.run_id)


def trial_folders(record: SweepRecord) -> set[str]:
    """The names of the folders of a sweep's trials."""
    return {
        trial_folder(trial.trial_key, code, data)
        for trial in record.trials
        for code, data in [trial.version]
        if code
        and data
        and re.fullmatch("[0-9a-f]{64}", trial.trial_key)
        and re.fullmatch("[0-9a-f]+", code)
        and re.fullmatch("[0-9a-f]+", data)
    }
