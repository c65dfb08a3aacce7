"""A trial's checkpoints in its folder: where they are, and how the ranks of a trial write one whole or not at all."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch.distributed as dist

from recallfront.platform.home import seal_folder, take_place
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.home.vault import forget
from recallfront.platform.trial.workplace import Workplace

CHECKPOINT: Final = "checkpoint"
# where a whole checkpoint may be, the newest first: a kill between two renames leaves it under another name
CHECKPOINTS: Final = (f"{CHECKPOINT}.new", CHECKPOINT, f"{CHECKPOINT}.old")
_FORGET_SECONDS = 5.0


def checkpoints(folder: Path) -> list[Path]:
    """A trial's training checkpoints, half-written ones included."""
    return [folder / name for name in CHECKPOINTS if (folder / name).is_dir()]


def remove_checkpoint(folder: Path) -> None:
    """Delete a trial's training checkpoints: it has ended."""
    for path in checkpoints(folder):
        shutil.rmtree(path, ignore_errors=True)
    # one that stays harms nothing, and `recallfront clean` deletes it
    with suppress(HomeAway):
        forget(folder / CHECKPOINT, patience=_FORGET_SECONDS)


def replace_folder(path: Path, write: Callable[[Path], None], place: Workplace) -> None:
    """Write a folder whole or not at all: every rank writes into a new one, which is sealed and renamed."""
    new = path.with_name(f"{path.name}.new")
    if place.rank == 0:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    barrier(place)
    write(new)
    barrier(place)
    if place.rank == 0:
        seal_folder(new)
        take_place(new, path)
    barrier(place)


def on_every_rank(ask: Callable[[], str | None], place: Workplace) -> str | None:
    """What rank 0 says, on every rank."""
    said = [ask() if place.rank == 0 else None]
    if place.world > 1:
        dist.broadcast_object_list(said, src=0)
    return said[0]


def barrier(place: Workplace) -> None:
    """Wait until every rank has come here."""
    if place.world > 1:
        dist.barrier()
