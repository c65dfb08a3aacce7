"""The home: the one folder of all outputs, and how files get there whole or not at all."""

import os
import re
import shutil
import uuid
from pathlib import Path

from recallfront.platform.errors import UsageError


def home_folder(home: Path | str | None = None) -> Path:
    """The folder of all outputs: as given, else RECALLFRONT_HOME, else `recallfront-home` here; `~` is the user's.

    Raises:
        UsageError: it is an address, not a folder, or of a user that there is not.
    """
    given = str(home or os.environ.get("RECALLFRONT_HOME") or "recallfront-home")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", given):
        raise UsageError(f"home {given!r}: must be a folder of this machine; object stores are not supported")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise UsageError(f"home {given!r}: there is no such user") from None


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader finds the old text or the new one, also after a crash."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # Before the rename: else a machine that goes down may keep the new name and lose the content.
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def take_place(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of the folder `path`, which may exist; both have the same parent.

    A reader finds one of the two, or between two renames none; a crash there leaves `<name>.old` beside it.
    """
    old = path.with_name(f"{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
