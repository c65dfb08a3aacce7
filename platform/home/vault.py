"""Between this machine's folder for a home and the home itself, where that is at an address; else nothing is done.

Work is done on files of this machine. What must outlast it is kept: `keep_file` and `keep_folder` copy it to the
address, and `fetch_file` and `fetch_folder` bring it to any other machine. All of them take the local path, which says
to which home it belongs; within a local home they return at once.

A small file is one object, which a store writes whole or not at all. A folder lies there once for each version that was
kept: its files first and, last, a manifest with the digest of each. Without its manifest a version is half a one; when
a newer one is whole, the older ones are deleted.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from recallfront.platform.errors import one_line
from recallfront.platform.home import private_folder, take_place, write_whole
from recallfront.platform.home.address import address_behind, remote_name
from recallfront.platform.home.transport import PATIENCE, Transport
from recallfront.sweeps.base import file_digest, seal, unseal

_MANIFEST: Final = "manifest.json"
_LONGEST_UPLOAD: Final = 3600.0  # seconds since its last file, after which half a version has been given up
_CONTENT: Final = "files"  # a folder of its own, as a kept folder may have a manifest of its own


def is_remote(path: Path) -> bool:
    """Whether a path lies in this machine's folder for a home at an address."""
    return remote_name(path) is not None


def check_home(home: Path) -> None:
    """Refuse a home at an address that cannot be opened or written to, before anything is computed.

    This machine's folder for it is closed to others.

    Raises:
        UsageError: why, in one sentence.
    """
    if (uri := address_behind(home)) is not None:
        _transport(uri).check()
        private_folder(home)


def keep_file(path: Path, *, patience: float = PATIENCE) -> None:
    """Copy a small file to the home's address.

    Raises:
        HomeAway: the store did not answer for `patience` seconds, or refused.
    """
    if (there := _there(path)) is not None:
        there.transport.write(there.name, path.read_bytes(), patience=patience)


def fetch_file(path: Path, *, patience: float = PATIENCE) -> bool:
    """Bring a small file from the home's address, in the place of the one here, if there is one -> whether there is.

    Raises:
        HomeAway: as `keep_file` does.
    """
    content = read_kept(path, patience=patience)
    if content is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.decode("utf-8", errors="replace"))
    return True


def read_kept(path: Path, *, patience: float = PATIENCE) -> bytes | None:
    """The content of a small file at the home's address; None if there is none, and within a local home.

    Raises:
        HomeAway: as `keep_file` does.
    """
    there = _there(path)
    return None if there is None else there.transport.read(there.name, patience=patience)


def forget(path: Path, *, patience: float = PATIENCE) -> None:
    """Delete a file or a folder, with all its versions, at the home's address; what is here stays.

    Raises:
        HomeAway: as `keep_file` does.
    """
    if (there := _there(path)) is not None:
        there.transport.remove(there.name, patience=patience)


def keep_folder(
    path: Path,
    *,
    source: Path | None = None,
    order: int = 0,
    once: bool = False,
    goes_on: Callable[[], bool] = lambda: True,
    patience: float = PATIENCE,
) -> None:
    """Copy a folder to the home's address, whole or not at all.

    Args:
        path: the folder, which says where it is kept.
        source: where its files are; by default there.
        order: of its versions the one of the highest order is the newest, and of two of the same the later.
        once: a whole version that is there stays the only one: the content is always the same.
        goes_on: asked before each file; after a no the version stays half a one, and is deleted.

    Raises:
        HomeAway: as `keep_file` does.
    """
    if (there := _there(path)) is None:
        return
    versions = _versions(there, patience)
    if once and any(version.whole for version in versions):
        return
    files = _digests(source or path)
    name = f"{order:012d}-{_digest(json.dumps(files, sort_keys=True).encode())[:12]}"
    if any(version.name == name and version.whole for version in versions):
        return
    root = f"{there.name}/{name}"
    for file in files:
        if not goes_on():
            there.transport.remove(root)
            return
        there.transport.upload((source or path) / file, f"{root}/{_CONTENT}/{file}", patience=patience)
    there.transport.write(f"{root}/{_MANIFEST}", seal({"files": files}).encode(), patience=patience)
    for version in versions:
        if version.order <= order and version.name != name:
            there.transport.remove(f"{there.name}/{version.name}")


def fetch_folder(path: Path, *, newer_than: int = -1, patience: float = PATIENCE) -> list[str]:
    """Bring the newest whole version of a folder from the home's address, in the place of the folder here.

    Nothing is done if there is no version of a higher order than `newer_than`. A damaged version is deleted there, and
    the next one is tried; so is half a one, unless its upload may still be under way.

    Returns:
        A sentence for each version that was dropped.

    Raises:
        HomeAway: as `keep_file` does.
        OSError: of this machine's files, which says nothing of those at the address.
    """
    dropped: list[str] = []
    there = _there(path)
    for version in [] if there is None else _versions(there, patience):
        if version.order <= newer_than:
            break
        assert there is not None
        if not version.whole and time.time() - version.at < _LONGEST_UPLOAD:
            continue  # somebody may still be uploading it
        try:
            _download(there, version, path, patience)
            break
        except ValueError as error:
            dropped.append(f"{_kind(version)} {path.name} was dropped ({one_line(error)})")
            there.transport.remove(f"{there.name}/{version.name}")
    return dropped


def kept_folders(folder: Path) -> list[str]:
    """The names of the folders that the home's address has in a folder; none within a local home."""
    there = _there(folder)
    return [] if there is None else there.transport.folders(there.name)


def kept_files(folder: Path, *, patience: float = PATIENCE) -> dict[str, int]:
    """The bytes of each file that the home's address has below a folder; none within a local home.

    Raises:
        HomeAway: as `keep_file` does.
    """
    there = _there(folder)
    found = {} if there is None else there.transport.files(there.name, patience=patience)
    return {name: entry.bytes for name, entry in found.items()}


class _There(NamedTuple):
    """Where a path is kept."""

    transport: Transport
    name: str


class _Version(NamedTuple):
    """A copy of a folder at the home's address."""

    name: str
    order: int
    at: float  # seconds since 1970
    whole: bool


@lru_cache(maxsize=8)  # with its connections; a process has one home, or two
def _transport(uri: str) -> Transport:
    return Transport(uri)


def _there(path: Path) -> _There | None:
    found = remote_name(path)
    return None if found is None else _There(_transport(found[0]), found[1])


def _versions(there: _There, patience: float) -> list[_Version]:
    """The versions of a folder, the newest first."""
    files: dict[str, dict[str, float]] = {}
    for file, entry in there.transport.files(there.name, patience=patience).items():
        version, _, inner = file.partition("/")
        if inner and version[:12].isdecimal():
            files.setdefault(version, {})[inner] = entry.at
    found = [
        _Version(name, int(name[:12]), max(inner.values()), _MANIFEST in inner)
        for name, inner in files.items()
    ]
    return sorted(found, key=lambda version: (version.order, version.at), reverse=True)


def _download(there: _There, version: _Version, path: Path, patience: float) -> None:
    """Raises ValueError: the version is damaged, or half a one."""
    root = f"{there.name}/{version.name}"
    manifest = there.transport.read(f"{root}/{_MANIFEST}", patience=patience)
    if manifest is None:
        raise ValueError("its upload had not ended")
    files = dict(unseal(manifest).get("files", {}))
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _in_use(new):
        for file, digest in files.items():
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise ValueError(f"{file} leaves its folder")
            target = new / file
            target.parent.mkdir(parents=True, exist_ok=True)
            there.transport.download(f"{root}/{_CONTENT}/{file}", target, patience=patience)
            if file_digest(target) != digest:
                raise ValueError(f"{file} does not match its digest")
        take_place(new, path)


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Make a folder, and remove what is left of it; within, `is_in_use` tells other processes to leave it alone."""
    folder.mkdir(parents=True)
    # the kernel gives the lock of a killed process back
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def is_in_use(folder: Path) -> bool:
    """Whether a process is just downloading into a folder, which is one of `_in_use`."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _kind(version: _Version) -> str:
    return "a damaged" if version.whole else "half a"


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its path in there."""
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(file for file in folder.rglob("*") if file.is_file()))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
