"""A sweep as one file: a zip archive of plain files, each with its digest in a manifest; reading it runs nothing.

`manifest.json` comes last and lists every other member: what lacks it, or does not match it, is not an archive of ours.
"""

import hashlib
import json
import lzma
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

from recallfront.platform.errors import UsageError, root_cause

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MOST_FILES: Final = 200_000
MOST_UNPACKED: Final = 64 * 2**30  # of all members together, unpacked
MOST_JSON: Final = 256 * 2**20  # of a member that is read as JSON
_CHUNK = 2**20
_PART = re.compile(r"[A-Za-z0-9_.+=@ -]+")  # of a member's path
_REGULAR = 0o100000  # the type of a plain file in a Unix mode
_TYPE = 0o170000


class ArchiveWriter:
    """Writes members one after another."""

    def __init__(self, archive: zipfile.ZipFile, file: Path) -> None:
        self._archive, self._file = archive, str(file)
        self._members: dict[str, list[Any]] = {}

    def json(self, name: str, value: Any) -> None:
        """Add a value as JSON; numbers that JSON lacks are written as Python writes them."""
        content = json.dumps(value, separators=(",", ":")).encode()
        self._write(name, content)
        self._members[name] = [len(content), hashlib.sha256(content).hexdigest()]

    def file(self, name: str, path: Path) -> None:
        """Add a file's content."""
        digest, size = hashlib.sha256(), 0
        with (
            path.open("rb") as source,
            _can_be_written(self._file),
            self._archive.open(name, "w", force_zip64=True) as target,
        ):
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
        self._members[name] = [size, digest.hexdigest()]

    def seal(self, about: dict[str, Any]) -> None:
        """Add the manifest."""
        self._write(MANIFEST, json.dumps(about | {"format": FORMAT, "members": self._members}).encode())

    def _write(self, name: str, content: bytes) -> None:
        with _can_be_written(self._file):
            self._archive.writestr(name, content)


class ArchiveReader:
    """Reads members, each checked against the manifest."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.about = self._json(MANIFEST, None)
        if self.about.get("format") != FORMAT:
            raise ValueError(f"its format is {self.about.get('format')!r}; this version reads {FORMAT}")
        self._members = _checked(self.about.get("members"), archive.infolist())
        # members by the first two parts of their paths, both in order: a run has one place
        self.places: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._members, key=lambda name: name.split("/")):
            self.places["/".join(name.split("/")[:2])].append(name)

    def json(self, name: str) -> dict[str, Any]:
        """A member that is a JSON object."""
        if name not in self._members:
            raise ValueError(f"{name} is missing")
        return self._json(name, self._members[name])

    def unpack(self, name: str, path: Path) -> None:
        """Write a member's content to a new file."""
        with _can_be_written(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                for chunk in self._chunks(name, self._members[name]):
                    target.write(chunk)

    def _json(self, name: str, member: tuple[int, str] | None) -> dict[str, Any]:
        content = bytearray()
        for chunk in self._chunks(name, member):
            content += chunk
            if len(content) > MOST_JSON:
                raise ValueError(f"{name} is larger than {MOST_JSON / 2**20:.0f} MiB")
        try:
            found = json.loads(content)
        except RecursionError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{name} is not a JSON object")
        return found

    def _chunks(self, name: str, member: tuple[int, str] | None) -> Iterator[bytes]:
        """A member's content: never more than its size, and an error at its end unless it has the digest."""
        digest, left = hashlib.sha256(), member[0] if member else MOST_JSON
        with self._archive.open(name) as source:
            while chunk := source.read(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"{name} is larger than it should be")
                digest.update(chunk)
                yield chunk
        if member and (left or digest.hexdigest() != member[1]):
            raise ValueError(f"{name} does not match its digest")


@contextmanager
def _can_be_written(file: str) -> Iterator[None]:
    """An error of writing a file names it: around it is the tracking server, which would be blamed."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {root_cause(error)}") from error


@contextmanager
def writing_archive(file: Path) -> Iterator[ArchiveWriter]:
    """A new archive, at its place once it is whole. Raises UsageError if there is one, or it cannot be written."""
    if file.exists():
        raise UsageError(f"{file} is there already: name another file")
    new = file.with_name(f".{file.name}.new")
    try:
        with _can_be_written(str(file)):
            archive = zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED)
        try:
            yield ArchiveWriter(archive, file)
        except BaseException:
            with suppress(OSError):  # it writes its directory: on a full disk this fails too, and hides why
                archive.close()
            raise
        with _can_be_written(str(file)):
            archive.close()
            new.rename(file)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def reading_archive(file: Path) -> Iterator[ArchiveReader]:
    """An archive that was written as above. Raises UsageError if it is none, or is damaged, or was tampered with."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield ArchiveReader(archive)
    # a member that uses what zipfile lacks, such as encryption, raises the last two
    except (
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise UsageError(f"{file} is not a whole archive of a sweep: {error}") from None


def check_path(name: object) -> str:
    """A member's path. Raises ValueError unless it is relative, of plain names, and leads nowhere else."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    plain = all(_PART.fullmatch(part) and part.strip(" .") for part in parts)
    if not parts or not plain or str(PurePosixPath(*parts)) != name or len(str(name)) > 500:
        raise ValueError(f"the path {str(name)[:80]!r} is not allowed")
    return str(name)


def _checked(members: object, found: list[zipfile.ZipInfo]) -> dict[str, tuple[int, str]]:
    """The manifest's members, once they are those of the archive, plain files, and not too many or too large."""
    if not isinstance(members, dict) or len(members) > MOST_FILES:
        raise ValueError("its manifest lists no members, or too many")
    names = [member.filename for member in found if member.filename != MANIFEST]
    if sorted(names) != sorted(members):
        raise ValueError("its members are not those of its manifest")
    for member in found:
        check_path(member.filename)
        if (member.external_attr >> 16) & _TYPE not in (0, _REGULAR):
            raise ValueError(f"{member.filename} is not a plain file")
    sizes = {name: (int(size), str(digest)) for name, (size, digest) in members.items()}
    if any(size < 0 for size, _ in sizes.values()) or sum(size for size, _ in sizes.values()) > MOST_UNPACKED:
        raise ValueError(f"its members are larger than {MOST_UNPACKED / 2**30:.0f} GiB")
    return sizes
