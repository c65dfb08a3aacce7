"""Keeps what the driver itself writes at the home's address, so that a driver on another machine can continue."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Self

from recallfront.platform.errors import one_line
from recallfront.platform.home import merge_lines
from recallfront.platform.home.vault import is_remote, keep_file, keep_folder, kept_files, read_kept
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.lease import Lease

_LOOK_SECONDS = 5.0  # between two looks
_LAST_SECONDS = 60.0  # at the end, for a store that is away
_LOG = logging.getLogger("recallfront")

_State = tuple[tuple[int, int], ...]


class Mirror(Companion):
    """A thread that keeps the files of one folder, and another folder as a whole, whenever they have changed.

    Entering it brings the lines that drivers on other machines have appended to files at the home's address. Nothing is
    kept any more once another driver has the lease: what it has kept is newer. Within a local home it does nothing.
    """

    def __init__(self, lease: Lease, appended: Path, replaced: Path) -> None:
        super().__init__("mirror")
        self._lease = lease
        self._appended, self._replaced = appended, replaced
        self._remote = is_remote(appended)
        self._kept: dict[Path, _State] = {}

    def __enter__(self) -> Self:
        if self._remote:
            for name in kept_files(self._appended):
                file = self._appended / name
                merge_lines(file, (read_kept(file) or b"").decode(errors="replace"))
            super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._remote:
            return
        super().__exit__(kind, error, trace)
        try:
            self._keep(_LAST_SECONDS)
        except OSError as error:
            _LOG.warning("the last changes of %s were not kept: %s", self._replaced.name, one_line(error))

    def _run(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            try:
                self._keep(_LOOK_SECONDS)
            except OSError:  # the next look tries again, and the last one says so
                continue

    def _keep(self, patience: float) -> None:
        states = {file: _state([file]) for file in sorted(self._appended.glob("*.jsonl"))}
        if front := _state(sorted(self._replaced.glob("*"))):
            states[self._replaced] = front
        changed = {path: state for path, state in states.items() if self._kept.get(path) != state}
        if not changed or not self._lease.is_held(patience=patience):
            return
        for path, state in changed.items():
            keep = keep_folder if path == self._replaced else keep_file
            keep(path, patience=patience)
            self._kept[path] = state


def _state(files: list[Path]) -> _State:
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)
