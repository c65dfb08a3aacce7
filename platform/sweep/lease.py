"""Which machine drives a sweep whose home is at an address: no file lock reaches from one machine to another.

The driver writes a small file there again and again. Another one watches it before it begins: a file that changes is a
driver's that lives. No clock of two machines is compared.
"""

import json
import logging
import os
import platform
import signal
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from recallfront.platform.errors import UsageError
from recallfront.platform.home import write_whole
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.home.vault import forget, is_remote, keep_file, read_kept
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.watch import Watch

_BEAT_SECONDS = 5.0  # between two writings of a driver
WATCH_SECONDS = 20.0  # in which one that lives has written
CERTAIN_SECONDS = 22.0  # to watch until it is certain that one does not
_RACE_SECONDS = 1.0  # for two that begin at once to see which of them wrote last
_LOG = logging.getLogger("recallfront")


class _FileWatch(Watch):
    """Watches the file of a driver."""

    def __init__(self, path: Path) -> None:
        super().__init__(_BEAT_SECONDS)
        self._path = path

    def look(self) -> bytes | None:
        """Read the file. Raises HomeAway: the store does not answer."""
        began = time.monotonic()
        try:
            content = read_kept(self._path, patience=_BEAT_SECONDS)
        except HomeAway:
            self.missed()
            raise
        self.saw(content, took=time.monotonic() - began)
        return content


_WATCHES: dict[Path, _FileWatch] = {}  # of `is_silent`, which a page asks again and again


class Lease(Companion):
    """Holds a sweep for this process for as long as it is entered; within a local home it does nothing."""

    def __init__(self, path: Path, sweep: str) -> None:
        super().__init__("lease")
        self._path, self._sweep, self._remote = path, sweep, is_remote(path)
        self._token, self._beats = uuid.uuid4().hex, 0
        self.is_taken = False  # by a driver on another machine

    def __enter__(self) -> Self:
        """Raises UsageError: a driver on another machine has the sweep."""
        if not self._remote:
            return self
        self._wait_for_silence()
        self._write()
        time.sleep(_RACE_SECONDS)
        after = read_kept(self._path)
        if not self._is_own(after):
            raise self._refusal(after)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._remote:
            return
        super().__exit__(kind, error, trace)
        try:
            if self.is_held(patience=_BEAT_SECONDS):
                forget(self._path, patience=_BEAT_SECONDS)
        except HomeAway:  # the next driver waits until it sees that this one is gone
            return

    def is_held(self, *, patience: float) -> bool:
        """Whether no driver on another machine has taken the sweep. Raises HomeAway: the store does not answer."""
        return not self._remote or self._is_own(read_kept(self._path, patience=patience))

    def _wait_for_silence(self) -> None:
        """Raises UsageError: a driver on another machine lives."""
        before, watch = read_kept(self._path), _FileWatch(self._path)
        while before is not None and watch.seconds < WATCH_SECONDS:
            time.sleep(min(1.0, _BEAT_SECONDS))
            try:
                now = watch.look()
            except HomeAway:
                now = read_kept(self._path)  # once the store is back, the watch begins anew
            if now != before:
                if now is not None:
                    raise self._refusal(now)
                return

    def _run(self) -> None:
        while not self._done.wait(_BEAT_SECONDS):
            try:
                is_own = self.is_held(patience=_BEAT_SECONDS)
                if self._done.is_set():  # the sweep has ended while the store was asked
                    return
                if not is_own:
                    _LOG.error("%s is driven by another machine now: this driver ends", self._sweep)
                    self.is_taken = True
                    end_driver()
                    return
                self._write()
            except OSError:
                # nor can another driver reach a store that is away; a full disk may have room again
                continue

    def _write(self) -> None:
        self._beats += 1
        told = {
            "token": self._token,
            "beats": self._beats,
            "machine": platform.node(),
            "process": os.getpid(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, json.dumps(told))
        self._path.chmod(0o600)
        keep_file(self._path, patience=_BEAT_SECONDS if self._beats > 1 else WATCH_SECONDS)

    def _is_own(self, content: bytes | None) -> bool:
        return content is not None and _told(content).get("token") == self._token

    def _refusal(self, content: bytes | None) -> UsageError:
        told = _told(content or b"{}")
        where = f"process {told.get('process')} of {str(told.get('machine'))[:80]}"
        return UsageError(f"{self._sweep} is being run by {where}")


def end_driver() -> None:
    """End this process's sweep as Ctrl-C does, also where the main thread waits."""
    # a shell's background job ignores that one
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM if ignored else signal.SIGINT)


def is_silent(path: Path, *, patience: float = 0.0) -> bool:
    """Whether nobody has rewritten a driver's file for 20 s, as far as this machine has seen; False if there is none.

    What is seen is kept in the local copy, whose age is that of its content by this machine's own clock. As the store
    may have been away meanwhile, this process itself must see it stay the same for two beats: it watches for `patience`
    seconds at most, and else knows when it looks again.
    """
    watch = _WATCHES.setdefault(path, _FileWatch(path))
    give_up, seen = time.monotonic() + patience, None
    while True:
        try:
            content = watch.look()
        except HomeAway:  # nobody knows
            return False
        if content is None or seen not in (None, content):
            return False
        seen = content
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.decode("utf-8", errors="replace"))
        if time.time() - path.stat().st_mtime > WATCH_SECONDS and watch.seconds >= 2 * _BEAT_SECONDS:
            return True
        if time.monotonic() >= give_up:
            return False
        time.sleep(min(1.0, _BEAT_SECONDS))


def _told(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
