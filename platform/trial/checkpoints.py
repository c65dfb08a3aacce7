"""A trial's checkpoints in its folder: where they are."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from recallfront.platform.home.transport import HomeAway
from recallfront.platform.home.vault import forget, is_in_use, kept_files
from recallfront.platform.trial.workplace import WEIGHTS

CHECKPOINT: Final = "checkpoint"
# where a whole checkpoint may be, the newest first: a kill between two renames leaves it under another name
CHECKPOINTS: Final = (f"{CHECKPOINT}.new", CHECKPOINT, f"{CHECKPOINT}.old")
_FORGET_SECONDS = 5.0


def checkpoints(folder: Path) -> list[Path]:
    """A trial's training checkpoints, half-written ones included."""
    return [folder / name for name in CHECKPOINTS if (folder / name).is_dir()]


def leftovers(folder: Path) -> list[Path]:
    """Copies of checkpoints and weights that were on their way somewhere when their process was killed."""
    copies = [path for name in (CHECKPOINT, WEIGHTS) for path in folder.glob(f".{name}.*") if path.is_dir()]
    return [path for path in copies if not is_in_use(path)]


def with_checkpoints(trials: Path) -> set[str]:
    """The names of the folders of trials that have something of a checkpoint, here or at the home's address."""
    here = {folder.name for folder in trials.glob("*/") if checkpoints(folder) or leftovers(folder)}
    with suppress(HomeAway):  # as in `remove_checkpoint`
        kept = kept_files(trials, patience=_FORGET_SECONDS)
        here |= {
            name
            for name, _, inner in (file.partition("/") for file in kept)
            if inner.startswith(f"{CHECKPOINT}/")
        }
    return here


def remove_checkpoint(folder: Path) -> None:
    """Delete a trial's training checkpoints, here and at the home's address: it has ended."""
    remove_here(folder)
    # one that stays harms nothing, and `recallfront clean` deletes it
    with suppress(HomeAway):
        forget(folder / CHECKPOINT, patience=_FORGET_SECONDS)


def remove_here(folder: Path) -> None:
    """Delete what this machine has of a trial's checkpoints; a driver elsewhere cannot."""
    for path in [*checkpoints(folder), *leftovers(folder)]:
        shutil.rmtree(path, ignore_errors=True)
