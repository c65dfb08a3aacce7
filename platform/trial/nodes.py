"""The nodes of a trial's ranks: what they write is brought together where they have no folder in common."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from recallfront.platform.home import seal_folder, take_place
from recallfront.platform.trial.workplace import Workplace

_T = TypeVar("_T")
_CHUNK: Final = 64 << 20  # bytes that are in memory at once


class Nodes:
    """Rank 0's node has a trial's checkpoints; those of other nodes that do not see its folder lend and borrow files.

    Every rank makes one at the same time, and calls its methods at the same time.
    """

    def __init__(self, place: Workplace, folder: Path) -> None:
        """folder: the trial's own."""
        self._place = place
        leader, self._leaders = _leaders(place, folder) if place.world > 1 else (0, [0])
        # whether this rank makes and removes folders: one does for each folder that there is
        self.leads = place.rank == leader
        self._borrows = leader != 0
        # over gloo, as files go from memory to memory, whatever the gradients take
        self._group = dist.new_group(self._leaders, backend="gloo") if len(self._leaders) > 1 else None

    def replace_folder(self, path: Path, write: Callable[[Path], None]) -> None:
        """Write a folder whole or not at all: every rank writes into a new one, which is sealed and renamed.

        It is on rank 0's node then, and on those that see that folder.
        """
        new = path.with_name(f"{path.name}.new")
        if self.leads:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        barrier(self._place)
        write(new)
        barrier(self._place)
        self._gather(new)
        if self._place.rank == 0:
            seal_folder(new)
            take_place(new, path)
        elif self.leads:
            shutil.rmtree(new)
        barrier(self._place)

    @contextmanager
    def lent(self, folder: Path) -> Iterator[Path]:
        """Where this rank finds the files of rank 0's folder: within, a node that does not see it has a copy."""
        copy = folder.with_name(f".{folder.name}.lent")
        if self._group is not None and self.leads:
            self._lend(folder, copy)
        barrier(self._place)
        try:
            yield copy if self._borrows else folder
        finally:
            barrier(self._place)
            if self._borrows and self.leads:
                shutil.rmtree(copy)

    def _lend(self, folder: Path, copy: Path) -> None:
        told: list[Any] = [None if self._borrows else _sizes(folder)]
        dist.broadcast_object_list(told, src=0, group=self._group)
        if self._borrows:
            shutil.rmtree(copy, ignore_errors=True)
        for name, size in told[0].items():
            with _opened(copy / name, "wb") if self._borrows else _opened(folder / name) as file:
                for count in _chunks(size):
                    chunk = torch.empty(count, dtype=torch.uint8) if self._borrows else _read(file, count)
                    dist.broadcast(chunk, src=0, group=self._group)
                    if self._borrows:
                        file.write(chunk.numpy().data)

    def _gather(self, folder: Path) -> None:
        """Copy what the other nodes have in a folder into rank 0's."""
        if self._group is None or not self.leads:
            return
        collects = self._place.rank == 0
        told: list[Any] | None = [None] * len(self._leaders) if collects else None
        own = {} if collects else _sizes(folder)
        dist.gather_object(own, told, dst=0, group=self._group)
        if told is None:
            for name, size in own.items():
                with _opened(folder / name) as file:
                    for count in _chunks(size):
                        dist.send(_read(file, count), dst=0, group=self._group)
            return
        for leader, sizes in zip(self._leaders, told, strict=True):
            for name, size in sizes.items():
                with _opened(folder / name, "wb") as file:
                    for count in _chunks(size):
                        chunk = torch.empty(count, dtype=torch.uint8)
                        dist.recv(chunk, src=leader, group=self._group)
                        file.write(chunk.numpy().data)


def on_every_rank(ask: Callable[[], _T], place: Workplace) -> _T:
    """What rank 0 says, on every rank."""
    said: list[Any] = [ask() if place.rank == 0 else None]
    if place.world > 1:
        dist.broadcast_object_list(said, src=0)
    return said[0]  # type: ignore[no-any-return]  # what was asked, or its copy


def barrier(place: Workplace) -> None:
    """Wait until every rank has come here."""
    if place.world > 1:
        dist.barrier()


def _leaders(place: Workplace, folder: Path) -> tuple[int, list[int]]:
    """The lowest rank of those that see this rank's folder, and that of every folder; 0 is the first."""
    token = on_every_rank(lambda: uuid.uuid4().hex, place)
    marks = [folder / f".seen-{token}-{rank}" for rank in range(place.world)]
    folder.mkdir(parents=True, exist_ok=True)
    marks[place.rank].touch()
    try:
        barrier(place)
        leader = next(rank for rank, mark in enumerate(marks) if mark.exists())
        told: list[Any] = [None] * place.world
        dist.all_gather_object(told, leader)
    finally:
        marks[place.rank].unlink()
    return leader, sorted(set(told))


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of every file below a folder, by its path in there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _opened(path: Path, mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
    if mode == "wb":
        path.parent.mkdir(parents=True, exist_ok=True)
    return path.open(mode)


def _chunks(size: int) -> Iterator[int]:
    for start in range(0, size, _CHUNK):
        yield min(_CHUNK, size - start)


def _read(file: IO[bytes], count: int) -> Tensor:
    read = bytearray(file.read(count))
    if len(read) < count:
        raise OSError(f"{file.name} has become shorter while it was copied")
    return torch.frombuffer(read, dtype=torch.uint8)
