"""Homes that are addresses: which there are, and the folder in which a machine works for one.

A home in an object store has a folder of its own on every machine, with the layout of a local home. Its name is the
address, so that the folder alone tells what it stands for.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from recallfront.platform.errors import UsageError

# a path that was made of an address has lost one of its slashes
_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(/?)(.*)", re.DOTALL)
_LONGEST_NAME: Final = 255  # bytes of a file's name, on Linux
_NEEDS_BUCKET: Final = frozenset({"s3", "gs", "az", "abfs"})


def address_of(given: str) -> str | None:
    """The address that a home is given as, without slashes at its end; None for the path of a folder.

    Raises:
        UsageError: it has a user, a query or a fragment in it, names no bucket or folder, or is too long.
    """
    found = _ADDRESS.fullmatch(given.strip())
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[3].rstrip("/")
    if scheme == "file" and found[2] == "":
        rest = f"/{rest}"
    if _has_user(scheme, rest):
        raise UsageError(
            f"home {scheme}://...@{rest.rpartition('@')[2]}: has a user in it: credentials are read from the "
            "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if any(mark in rest for mark in "?#"):
        raise UsageError(
            f"home {scheme}://{re.split('[?#]', rest)[0]}: must not have a query or a fragment: credentials and "
            "addresses of servers are read from the environment"
        )
    uri = f"{scheme}://{rest}"
    if scheme == "file" and not re.match("/[^/]", rest):
        raise UsageError(f"home {uri!r}: names no folder: write file:///FOLDER")
    if scheme in _NEEDS_BUCKET and not urlsplit(uri).netloc:
        raise UsageError(f"home {uri!r}: names no bucket: write {scheme}://BUCKET/FOLDER")
    if len(_name(uri).encode()) > _LONGEST_NAME:
        raise UsageError(f"home {uri[:60]!r}...: is too long an address")
    return uri


def local_folder(uri: str) -> Path:
    """The folder of this machine for the home at an address; it need not be there."""
    return _state_folder() / _name(uri)


def address_behind(folder: Path) -> str | None:
    """The address that a folder is this machine's for; None for any other, as that of a local home."""
    if folder.parent != _state_folder():
        return None
    return unquote(folder.name.replace("=", "%"))


def home_name(folder: Path) -> str:
    """A home as its user knows it: the address, where it is one."""
    return address_behind(folder) or str(folder)


def remote_name(path: Path) -> tuple[str, str] | None:
    """The address of the home that a path lies in, and the path's name there; None within a local home."""
    state = _state_folder()
    parts = path.relative_to(state).parts if path.is_relative_to(state) else ()
    if len(parts) < 2:
        return None
    uri = address_behind(state / parts[0])
    return None if uri is None else (uri, "/".join(parts[1:]))


def _has_user(scheme: str, rest: str) -> bool:
    """Whether a user stands before the host, also where a slash in the password parts them."""
    host = rest.split("/")[0]
    has_port = scheme not in _NEEDS_BUCKET and re.fullmatch(r"[^:]*:\d+", host)
    return "@" in host or ("@" in rest and ":" in host and not has_port)


def _name(uri: str) -> str:
    # "%" would mean something else in the URI of a store that lies there
    return quote(uri, safe="").replace("%", "=")


def _state_folder() -> Path:
    """Where a machine keeps such folders: RECALLFRONT_STATE, else the user's folder for what programs keep."""
    given = os.environ.get("RECALLFRONT_STATE")
    if given:
        return Path(given).expanduser().resolve()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return (Path(base).expanduser() / "recallfront").resolve()
