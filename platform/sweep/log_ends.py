"""The last lines that trials left in their sweep's log, read from its end: a log may be long, and who looks waits."""

import io
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final

from recallfront.platform.home import home_folder
from recallfront.platform.results.cancellation import DRIVER
from recallfront.platform.sweep.log import KEPT_BYTES, LOG_FILE, is_of, log_path, said_of
from recallfront.platform.tracking.ledger import find_sweep, read_artifact, reading
from recallfront.platform.tracking.store import find_store

_BLOCK: Final = 2**18  # bytes that are read at once
_FRESH_SECONDS: Final = 30.0  # that MLflow's copy of a log is kept: it is sent no more often
_COPIES: Final = 2  # that are kept, of `KEPT_BYTES` at most

_copies: dict[tuple[str, str], tuple[float, bytes | None]] = {}
# files of this home, and the last driver that is known to have written them
_newest: dict[tuple[Path, int], str] = {}
_NEWEST: Final = 256
_lock = Lock()


def last_lines(
    name: str,
    keys: Collection[str],
    most: int,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, list[str]]:
    """The last lines, `most` at most, of the trials that a log names by these keys; of no line, a trial is left out.

    Of a longer log, its last 16 MiB are looked through, and no more of it than needed.

    Raises:
        UsageError: there is no such sweep, or its log cannot be read.
    """
    folder = home_folder(home)
    uri = find_store(tracking_uri, folder)
    sweep = find_sweep(uri, name)
    own = log_path(sweep.sweep_key, folder)
    if not _has_newest(own, sweep.tags.get(DRIVER)):
        copy = _copy_of(uri, sweep.run_id)
        if copy is not None:
            return _found(io.BytesIO(copy), keys, most)
    if not own.exists():
        return {}
    with own.open("rb") as file:
        return _found(file, keys, most)


def _has_newest(own: Path, driver: str | None) -> bool:
    """Whether the file of this home is the one that the sweep's last driver writes, which it stays."""
    if driver is None or not own.exists():
        return own.exists()
    place = own, own.stat().st_ino
    if _newest.get(place) == driver:
        return True
    if not is_of(driver, own):
        return False
    with _lock:
        _newest[place] = driver
        while len(_newest) > _NEWEST:
            del _newest[next(iter(_newest))]
    return True


def _copy_of(uri: str, run_id: str) -> bytes | None:
    """MLflow's copy of a log, as a server sends it: whole."""
    with _lock:
        read_at, copy = _copies.pop((uri, run_id), (-_FRESH_SECONDS, None))
    if time.monotonic() - read_at >= _FRESH_SECONDS:
        read_at = time.monotonic()
        with reading(uri) as client:
            text = read_artifact(client, run_id, LOG_FILE)
        copy = None if text is None else text.encode()[-KEPT_BYTES:]
    with _lock:
        _copies[uri, run_id] = read_at, copy
        while len(_copies) > _COPIES:
            del _copies[next(iter(_copies))]
    return copy


def _found(file: BinaryIO, keys: Collection[str], most: int) -> dict[str, list[str]]:
    found, wanted = dict[str, list[str]](), set(keys)
    for line in _backwards(file):
        key, text = said_of(line)
        if key in wanted:
            found.setdefault(key, []).append(text)
            if len(found[key]) == most or text.startswith("begins: "):
                wanted.remove(key)
        if not wanted:
            break
    return {key: lines[::-1] for key, lines in found.items()}


def _backwards(file: BinaryIO) -> Iterator[str]:
    """The lines of a file, the last first, as far as they are looked through."""
    end = file.seek(0, io.SEEK_END)
    least, cut = max(end - KEPT_BYTES, 0), b""
    while end > least:
        begin = max(end - _BLOCK, least)
        file.seek(begin)
        cut, *lines = (file.read(end - begin) + cut).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in reversed(lines))
        end = begin
    if least == 0:
        yield cut.decode("utf-8", "replace")
