"""Data sets of a home: built once, kept at its address where it has one, and brought to a machine once."""

from pathlib import Path

from filelock import FileLock

from recallfront.platform.home.vault import fetch_folder, keep_folder, kept_folders
from recallfront.sweeps.data import data_folder, data_name, digest_of, prepare
from recallfront.sweeps.tasks.base import Task


def prepared(task: Task, home: Path) -> tuple[Path, str]:
    """The task's data set in a home, built there unless it is at the home's address -> (its path, its digest).

    Raises:
        HomeAway: the home's address does not answer.
    """
    bring_data(data_folder(task, home / "data"))
    path, digest = prepare(task, home / "data")
    keep_folder(path, once=True)
    return path, digest


def kept(task: Task, home: Path, digest: str) -> Path | None:
    """The task's data set of that digest in a home, brought from its address if need be; None if it has none.

    What the data were made of is not looked at: it may have changed since, or be out of reach.

    Raises:
        HomeAway: the home's address does not answer.
    """
    folder, begins = home / "data", data_name(task)
    here = [path.parent.name for path in folder.glob(f"{begins}*/manifest.json")]
    away = [name for name in kept_folders(folder) if name.startswith(begins)]
    for name in dict.fromkeys([*here, *away]):
        bring_data(folder / name)
        if digest_of(folder / name) == digest:
            return folder / name
    return None


def bring_data(path: Path) -> list[str]:
    """Bring a data set from the home's address, unless it is here -> a sentence for each damaged one that was dropped.

    Of the processes of a machine one does so, and the others wait for it.
    """
    if path.exists():
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        return [] if path.exists() else fetch_folder(path)
