"""Keeps what the driver itself writes at the home's address, so that a driver on another machine can continue."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Self

from recallfront.platform.errors import one_line
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.home.vault import fetch_file, is_remote, keep_file, keep_folder, kept_files
from recallfront.platform.sweep.background import Companion

_LOOK_SECONDS = 5.0  # between two looks
_LAST_SECONDS = 60.0  # at the end, for a store that is away
_LOG = logging.getLogger("recallfront")

_State = tuple[tuple[int, int], ...]


class Mirror(Companion):
    """A thread that keeps the files of one folder, and another folder as a whole, whenever they have changed.

    Entering it brings the files that are longer at the home's address, as those that another driver has appended to.
    Within a local home it does nothing.
    """

    def __init__(self, appended: Path, replaced: Path) -> None:
        super().__init__("mirror")
        self._appended, self._replaced = appended, replaced
        self._remote = is_remote(appended)
        self._kept: dict[Path, _State] = {}

    def __enter__(self) -> Self:
        if self._remote:
            for name, size in kept_files(self._appended).items():
                file = self._appended / name
                if not file.exists() or file.stat().st_size < size:
                    fetch_file(file)
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
        except HomeAway as away:
            _LOG.warning("the last changes of %s were not kept: %s", self._replaced.name, one_line(away))

    def _run(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            try:
                self._keep(_LOOK_SECONDS)
            except HomeAway:  # the next look tries again, and the last one says so
                continue

    def _keep(self, patience: float) -> None:
        for file in sorted(self._appended.glob("*.jsonl")):
            state = _state([file])
            if self._kept.get(file) != state:
                keep_file(file, patience=patience)
                self._kept[file] = state
        state = _state(sorted(self._replaced.glob("*")))
        if state and self._kept.get(self._replaced) != state:
            keep_folder(self._replaced, patience=patience)
            self._kept[self._replaced] = state


def _state(files: list[Path]) -> _State:
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)
