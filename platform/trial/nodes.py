"""The nodes of a trial's ranks: what they write is brought together where they have no folder in common."""

import io
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from recallfront.platform.home import seal_folder, take_place
from recallfront.platform.trial.workplace import Workplace

_CHUNK: Final = 64 << 20  # bytes that are in memory at once


class Nodes:
    """Rank 0's node has a trial's checkpoints; those of other nodes that do not see its folder lend and borrow files.

    Every rank makes one at the same time, and calls its methods at the same time.
    """

    def __init__(self, place: Workplace, folder: Path) -> None:
        """folder: the trial's own."""
        self._place = place
        self._leaders = _leaders(place, folder) if place.world > 1 else [0]
        # whether this rank makes and removes folders: one does on each node that shares none with rank 0's
        self.leads = place.rank in self._leaders
        # over gloo, as files go from memory to memory, whatever the gradients take
        self._group = dist.new_group(self._leaders, backend="gloo") if len(self._leaders) > 1 else None

    def replace_folder(self, path: Path, write: Callable[[Path], None]) -> None:
        """Write a folder whole or not at all: every rank writes into a new one, which is sealed and renamed.

        It is on rank 0's node then, and on those that see that folder.
        """
        new = path.with_name(f"{path.name}.new")
        if self.leads:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True, exist_ok=True)
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

    def borrow(self, folder: Path) -> None:
        """Copy rank 0's folder to every node that does not see it."""
        if self._group is not None and self.leads:
            source = self._place.rank == 0
            told: list[Any] = [_sizes(folder) if source else None]
            dist.broadcast_object_list(told, src=0, group=self._group)
            if not source:
                shutil.rmtree(folder, ignore_errors=True)
            for name, size in told[0].items():
                with _opened(folder / name, write=not source) as file:
                    for count in _chunks(size):
                        chunk = _read(file, count) if source else torch.empty(count, dtype=torch.uint8)
                        dist.broadcast(chunk, src=0, group=self._group)
                        if not source:
                            file.write(chunk.numpy().data)
        barrier(self._place)

    def give_back(self, folder: Path) -> None:
        """Delete what `borrow` copied."""
        barrier(self._place)
        if self.leads and self._place.rank != 0:
            shutil.rmtree(folder)

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
                with _opened(folder / name, write=True) as file:
                    for count in _chunks(size):
                        chunk = torch.empty(count, dtype=torch.uint8)
                        dist.recv(chunk, src=leader, group=self._group)
                        file.write(chunk.numpy().data)


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


def _leaders(place: Workplace, folder: Path) -> list[int]:
    """The lowest rank of those that see the same folder, of each such folder; 0 is the first."""
    token = on_every_rank(lambda: uuid.uuid4().hex, place)
    marks = [folder / f".seen-{token}-{rank}" for rank in range(place.world)]
    folder.mkdir(parents=True, exist_ok=True)
    marks[place.rank].touch()
    barrier(place)
    seen = [rank for rank, mark in enumerate(marks) if mark.exists()]
    told: list[Any] = [None] * place.world
    dist.all_gather_object(told, seen[0])
    marks[place.rank].unlink()
    return sorted(set(told))


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of every file below a folder, by its path in there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _opened(path: Path, *, write: bool = False) -> io.FileIO:
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
    return io.FileIO(path, "w" if write else "r")


def _chunks(size: int) -> Iterator[int]:
    for start in range(0, size, _CHUNK):
        yield min(_CHUNK, size - start)


def _read(file: io.FileIO, count: int) -> Tensor:
    read = bytearray()
    while len(read) < count:
        part = file.read(count - len(read))
        if not part:
            raise OSError(f"{file.name} has become shorter while it was copied")
        read += part
    return torch.frombuffer(read, dtype=torch.uint8)
