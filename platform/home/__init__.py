"""The home: the one place of all outputs, and how files get there whole or not at all."""

import errno
import getpass
import os
import shutil
import uuid
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final

from recallfront.platform.errors import UsageError, is_machine_fault, one_line
from recallfront.platform.home.address import address_of, local_folder
from recallfront.sweeps.base import file_digest, seal, unseal

USER_VARIABLE: Final = "RECALLFRONT_USER"
_LONGEST_USER: Final = 100  # characters of a name that are recorded
_SEAL_FILE = "digests.json"


def home_folder(home: Path | str | None = None) -> Path:
    """The folder of all outputs: as given, else RECALLFRONT_HOME, else `recallfront-home` here; `~` is the user's.

    Of a home at an address, as s3://BUCKET/FOLDER, it is the folder in which this machine works for it: `home.vault`
    brings files there and takes them back.

    Raises:
        UsageError: it is of a user that there is not, a link to itself, or an address that cannot be a home.
    """
    given = str(home or os.environ.get("RECALLFRONT_HOME") or "recallfront-home")
    if (uri := address_of(given)) is not None:
        return local_folder(uri)
    try:
        folder = Path(given).expanduser()
        folder.stat()
    except RuntimeError:
        raise UsageError(f"home {given!r}: there is no such user") from None
    except OSError as error:  # all else is told by what uses the home
        if error.errno == errno.ELOOP:
            raise UsageError(f"home {given!r}: is a symbolic link to itself") from None
    return folder


def private_folder(folder: Path) -> Path:
    """`folder`, made if need be with the folders that it is in, and closed to others if it is this user's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(PermissionError):
        folder.chmod(0o700)
    return folder


def private_opener(path: str, flags: int) -> int:
    """Opens, as the `opener` of `open`, a file that is made for this user alone."""
    return os.open(path, flags, 0o600)


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


def merge_lines(path: Path, text: str) -> None:
    """Put the lines of a text that a file lacks where they stand in the text, another machine's copy of the file."""
    own = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    other = text.splitlines()
    merged: list[str] = []
    for _, begin, end, other_begin, other_end in SequenceMatcher(None, own, other, False).get_opcodes():
        merged += own[begin:end]
        merged += [] if own[begin:end] == other[other_begin:other_end] else other[other_begin:other_end]
    if merged == own:
        return
    private_folder(path.parent)
    write_whole(path, "".join(f"{line}\n" for line in merged))
    path.chmod(0o600)


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


def seal_folder(folder: Path) -> None:
    """Write the digest of every file of a folder into it, last: the mark of a whole folder."""
    for file in _files(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    write_whole(folder / _SEAL_FILE, seal(file_digests(folder)))


def check_folder(folder: Path) -> None:
    """Compare a folder with the digests that `seal_folder` wrote.

    Raises:
        ValueError: a file is missing or was changed; the message names it.
        OSError: the machine keeps the files from being read, and they may be whole.
    """
    check_files(folder, _read_seal(folder / _SEAL_FILE))


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of each file below a folder, by its path in there."""
    return {str(file.relative_to(folder)): file_digest(file) for file in _files(folder)}


def check_files(folder: Path, digests: dict[str, str]) -> None:
    """Raise ValueError unless the folder holds exactly the files of these digests; OSError by the machine's fault."""
    try:
        found = file_digests(folder)
    except OSError as error:
        if is_machine_fault(error):
            raise
        raise ValueError(f"{Path(str(error.filename)).name} cannot be read") from error
    wrong = sorted(name for name in {*found, *digests} if found.get(name) != digests.get(name))
    if wrong:
        what = "is missing" if wrong[0] not in found else "does not match its digest"
        raise ValueError(f"{wrong[0]} {what}")


def _read_seal(path: Path) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in unseal(path.read_bytes()).items()}
    except OSError as error:
        if is_machine_fault(error):
            raise
        raise ValueError(f"{path.name} is missing or cannot be read") from error
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != _SEAL_FILE)


def user_name() -> str:
    """Who runs this process, in one line: of a job the one who submitted it, whom USER_VARIABLE names.

    Empty where the machine does not know its user's name, as some containers do not.
    """
    try:
        return one_line(os.environ.get(USER_VARIABLE) or getpass.getuser(), _LONGEST_USER)
    except (KeyError, OSError):
        return ""
