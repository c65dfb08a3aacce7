"""Deletes a sweep: its runs in MLflow, and what the home keeps of it.

MLflow is imported where it is first used, so that the command starts fast.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from recallfront.platform.errors import UsageError, root_cause
from recallfront.platform.home import home_folder
from recallfront.platform.home.address import home_name
from recallfront.platform.home.vault import kept_files
from recallfront.platform.results.records import TAG, SweepRecord
from recallfront.platform.sweep.driverless import driverless
from recallfront.platform.sweep.lock import only_driver_of
from recallfront.platform.sweep.remains import remains, remove, remove_gone
from recallfront.platform.tracking.ledger import list_sweeps, read_sweep, runs_of, writing
from recallfront.platform.tracking.store import prepare_store


@dataclass(frozen=True)
class Deletion:
    """What deleting a sweep takes away, or has."""

    record: SweepRecord
    uri: str
    home: Path
    runs: tuple[str, ...]  # of MLflow, the sweep's own first
    paths: tuple[Path, ...]  # of the home
    versions: tuple[tuple[str, str], ...]  # registered models of its trials: name, version

    @property
    def bytes(self) -> int:
        """What the paths hold."""
        files = [file for path in self.paths for file in ([path] if path.is_file() else path.rglob("*"))]
        here = sum(file.lstat().st_size for file in files if file.is_file())
        return here + sum(sum(kept_files(path).values()) for path in self.paths)

    def __str__(self) -> str:
        record = self.record
        kept = (
            f"{len(self.paths)} files and folders of {self.bytes / 2**20:.1f} MiB in {home_name(self.home)}"
        )
        return f"sweep {record.name} ({record.sweep_key[:8]}): {len(self.runs)} runs, {kept}"


def find_deletion(sweep: str, *, home: Path | str | None = None, tracking_uri: str | None = None) -> Deletion:
    """What deleting a sweep would take away; nothing is deleted.

    Raises:
        UsageError: there is no such sweep, or it runs.
    """
    folder = home_folder(home).resolve()
    uri = prepare_store(tracking_uri, folder, create=False)
    record = read_sweep(uri, sweep)
    key = record.sweep_key
    if not re.fullmatch("[0-9a-f]{64}", key):
        raise UsageError(f"run {record.run_id}: its tag {TAG}sweep_key is not a key: it was edited")
    if record.tags.get("status") == "running" and not driverless([record], uri, folder, wait=True):
        record = read_sweep(uri, sweep)  # it may have ended meanwhile
        if record.tags.get("status") == "running":
            raise UsageError(f"sweep {record.name} ({key[:8]}) runs: cancel it first")
    return _deletion(record, uri, folder)


def _deletion(record: SweepRecord, uri: str, folder: Path) -> Deletion:
    # a trial's folder is that of every sweep that has the trial
    others = [
        read_sweep(uri, other.run_id, spec={}) for other in list_sweeps(uri) if other.run_id != record.run_id
    ]
    with writing(uri) as client:
        runs = runs_of(client, record)
        found = [v for run in runs for v in client.search_model_versions(f"run_id = '{run}'")]
    return Deletion(
        record=record,
        uri=uri,
        home=folder,
        runs=tuple(runs),
        paths=tuple(remains(record, folder, others)),
        versions=tuple((version.name, str(version.version)) for version in found),
    )


def delete(deletion: Deletion, *, versions: bool = False) -> list[Path]:
    """Delete a sweep's runs and files as they are now, with `versions` its registered models, too.

    MLflow keeps deleted runs and their artifacts until `mlflow gc`.

    Returns:
        Folders of trials that stay, as another sweep runs in them by now.

    Raises:
        UsageError: it runs by now, or the store refuses.
    """
    record = deletion.record
    with only_driver_of(record.sweep_key, record.name, deletion.home), writing(deletion.uri) as client:
        if versions:
            for name, version in deletion.versions:
                client.delete_model_version(name, version)
        # another sweep may have got one of its trials since
        deletion = _deletion(read_sweep(deletion.uri, record.run_id, spec={}), deletion.uri, deletion.home)
        left = []
        remove_gone(deletion.home)
        # what the runs name first, and the sweep's own run last: until then what is left can be found and deleted
        for path in deletion.paths:
            try:
                if not remove(path):
                    left.append(path)
            except OSError as error:
                raise UsageError(
                    f"{path} cannot be deleted: {root_cause(error)}; delete the sweep again"
                ) from error
        for run in reversed(deletion.runs):
            client.delete_run(run)
    return left
