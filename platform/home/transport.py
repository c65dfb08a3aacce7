"""Files of a home at an address: read, written, listed and removed, again and again until the store answers.

pyarrow speaks S3, Google Cloud Storage and file systems itself, without the interpreter's lock: what is uploaded beside
training does not slow it. It is imported with the first address, since local homes need none of it.
"""

import errno
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from recallfront.platform.errors import UsageError, one_line

PATIENCE: Final = 600.0  # seconds that a store may be away without loss
_CHECK_PATIENCE: Final = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts
_REQUEST_SECONDS, _CONNECT_SECONDS = 60.0, 5.0
_CHUNK: Final = 4 << 20  # bytes
# what no second attempt changes, in the words of AWS's library
_REFUSED: Final = (
    "NO_SUCH_BUCKET",
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
    "MISSING_AUTHENTICATION_TOKEN",
    "HTTP status 403",
    "HTTP status 301",
)
_NO_PLACE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

_T = TypeVar("_T")


class HomeAway(OSError):
    """The store of a home did not answer in time, or refused: the machine's fault, not that of what needs a file."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return str(self.strerror)


class NotKept(ValueError):
    """The store has no file of that name."""


class _OwnFault(Exception):
    """What went wrong with a file of this machine while the store was asked: the store is not to blame."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Entry(NamedTuple):
    """A file of the store."""

    bytes: int
    at: float  # seconds since 1970: when it was written


class Transport:
    """The files below an address, by names with "/" between folders."""

    def __init__(self, uri: str) -> None:
        """Raises UsageError: nothing here opens such addresses."""
        self.uri = uri
        self._fs, self._root = _open(uri)
        self._has_folders = self._fs.type_name in ("local", "hdfs") or self._fs.type_name.startswith("py")

    def check(self) -> None:
        """Write, read and remove a file.

        Raises:
            UsageError: that is not possible; why, in one sentence.
        """
        name = f".check-{uuid.uuid4().hex}"
        try:
            if self._fs.type_name in ("s3", "gcs"):
                self._find_bucket()
            self.write(name, b"recallfront", patience=_CHECK_PATIENCE)
            if self.read(name, patience=_CHECK_PATIENCE) != b"recallfront":
                raise UsageError(f"home {self.uri!r}: a file that was written there is not what is read")
            self.remove(name, patience=_CHECK_PATIENCE)
        except HomeAway as error:
            raise UsageError(str(error)) from error

    def _find_bucket(self) -> None:
        bucket = self._root.split("/")[0]
        found = self._patiently(_CHECK_PATIENCE, lambda: self._fs.get_file_info(bucket))
        if found.type.name == "NotFound":
            raise UsageError(f"home {self.uri!r}: there is no bucket {bucket!r}: make it first")

    def read(self, name: str, *, patience: float = PATIENCE) -> bytes | None:
        """The content of a file; None if there is none."""

        def ask() -> bytes:
            with self._stored(name) as stream:
                return bytes(stream.read())

        try:
            return self._patiently(patience, ask)
        except NotKept:
            return None

    def write(self, name: str, content: bytes, *, patience: float = PATIENCE) -> None:
        """Write a small file, whole or not at all."""

        def ask() -> None:
            with self._new_file(name) as stream:
                stream.write(content)

        self._patiently(patience, ask)

    def upload(self, file: Path, name: str, *, patience: float = PATIENCE) -> None:
        """Copy a file of this machine to the store.

        Raises:
            OSError: it cannot be read, which is said at once; HomeAway if it is the store that fails.
        """

        def ask() -> None:
            _own(source.seek, 0)
            with self._new_file(name) as stream:
                while chunk := _own(source.read, _CHUNK):
                    stream.write(chunk)

        with file.open("rb") as source:
            self._patiently(patience, ask)

    def download(self, name: str, file: Path, *, patience: float = PATIENCE) -> None:
        """Copy a file of the store to this machine.

        Raises:
            NotKept: there is none.
            OSError: it cannot be written here, which is said at once; HomeAway if it is the store that fails.
        """

        def ask() -> None:
            _own(target.seek, 0)
            _own(target.truncate)
            with self._stored(name) as stream:
                while chunk := stream.read(_CHUNK):
                    _own(target.write, chunk)

        with file.open("wb") as target:
            self._patiently(patience, ask)

    def files(self, name: str, *, patience: float = PATIENCE) -> dict[str, Entry]:
        """All files below a folder, by their names in it; none if there is no such folder."""
        from pyarrow.fs import FileSelector, FileType

        root = self._path(name)
        selector = FileSelector(root, allow_not_found=True, recursive=True)
        found = self._patiently(patience, lambda: self._fs.get_file_info(selector))
        return {
            entry.path[len(root) :].lstrip("/"): Entry(entry.size or 0, (entry.mtime_ns or 0) / 1e9)
            for entry in found
            if entry.type == FileType.File
        }

    def folders(self, name: str) -> list[str]:
        """The names of the folders directly in a folder."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(name), allow_not_found=True)
        found = self._patiently(PATIENCE, lambda: self._fs.get_file_info(selector))
        return sorted(entry.base_name for entry in found if entry.type == FileType.Directory)

    def remove(self, name: str, *, patience: float = PATIENCE) -> None:
        """Delete a file, or a folder with all in it, where there is one."""
        from pyarrow.fs import FileType

        path = self._path(name)

        def ask() -> None:
            kind = self._fs.get_file_info(path).type
            if kind == FileType.Directory:
                self._fs.delete_dir(path)
            elif kind == FileType.File:
                self._fs.delete_file(path)

        try:
            self._patiently(patience, ask)
        except FileNotFoundError:  # another process was faster
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _stored(self, name: str) -> Iterator[Any]:
        """A stream of a file of the store, which some stores look for only when it is read."""
        try:
            with self._fs.open_input_stream(self._path(name)) as stream:
                yield stream
        except FileNotFoundError:
            raise NotKept(f"{name.rpartition('/')[2]} is missing") from None

    def _new_file(self, name: str) -> Any:
        """A stream whose file is there, under its name, once it is closed in order."""
        path = self._path(name)
        if not self._has_folders:
            return self._fs.open_output_stream(path)
        self._fs.create_dir(path.rpartition("/")[0], recursive=True)
        return _Renamed(self._fs, path)

    def _patiently(self, patience: float, ask: Callable[[], _T]) -> _T:
        """Ask until there is an answer: what fails for a moment is asked again, after longer and longer pauses."""
        give_up, pause = time.monotonic() + patience, _FIRST_PAUSE
        while True:
            try:
                return ask()
            except (FileNotFoundError, TypeError, ValueError, NotImplementedError):
                raise
            except _OwnFault as fault:
                raise fault.error from None
            except Exception as error:  # libraries behind other addresses raise whatever they like
                if _is_lasting(error) or time.monotonic() + pause > give_up:
                    raise HomeAway(f"home {self.uri!r}: {_in_words(error)}") from error
            # of many processes that wait not all come back at once
            time.sleep(pause * random.SystemRandom().uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)


def _own(call: Callable[..., _T], *given: object) -> _T:
    """Call what works on a file of this machine, amid calls of the store."""
    try:
        return call(*given)
    except OSError as error:
        raise _OwnFault(error) from error


class _Renamed:
    """A new file of a file system with folders, which has another name until it is whole."""

    def __init__(self, fs: Any, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self._fs, self._path, self._new = fs, path, f"{folder}/.{name}.{uuid.uuid4().hex}"

    def __enter__(self) -> Any:
        self._stream = self._fs.open_output_stream(self._new)
        return self._stream

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stream.close()
        if kind is None:
            self._fs.move(self._new, self._path)
        else:
            self._fs.delete_file(self._new)


def _is_refused(error: BaseException) -> bool:
    return any(sign in str(error) for sign in _REFUSED)


def _is_lasting(error: BaseException) -> bool:
    """Whether a second attempt would fail as well."""
    return _is_refused(error) or (isinstance(error, OSError) and error.errno in _NO_PLACE)


def _in_words(error: BaseException) -> str:
    """What a store's error says, and what helps."""
    said = one_line(error, 300)
    if "NO_SUCH_BUCKET" in said:
        return "there is no such bucket: make it first"
    if _is_refused(error):
        return (
            f"the store refuses ({said}); credentials are read from the environment, as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, from AWS_PROFILE or from the machine's role"
        )
    if _is_lasting(error):
        return f"cannot be written to ({said})"
    return f"the store does not answer as a store of objects ({said})"


def _open(uri: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        UsageError: what opens it is not installed, or there is nothing that does.
    """
    from pyarrow import fs

    scheme, _, path = uri.partition("://")
    if scheme == "file":
        return fs.LocalFileSystem(), path
    if scheme == "s3":
        return _s3(), path
    try:
        if scheme == "gs":
            found, path = fs.FileSystem.from_uri(uri)
            return found, str(path)
        import fsspec

        found = fsspec.filesystem(scheme)
        return fs.PyFileSystem(fs.FSSpecHandler(found)), str(found._strip_protocol(uri)).rstrip("/")
    except ImportError as error:
        raise UsageError(f"home {uri!r}: needs a package that is not installed: {one_line(error)}") from None
    except ValueError as error:
        if "not known" not in str(error):
            raise UsageError(f"home {uri!r}: cannot be opened: {one_line(error)}") from None
        raise UsageError(
            f"home {uri!r}: nothing opens {scheme}:// addresses: give a folder, or an address that starts with s3://, "
            "gs://, az:// or file://"
        ) from None
    except Exception as error:  # of libraries behind other addresses
        raise UsageError(f"home {uri!r}: cannot be opened: {one_line(error)}") from None


def _s3() -> Any:
    """S3 as the environment names it, with AWS's own variables."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(
        endpoint_override=endpoint or None,
        region=region or ("us-east-1" if endpoint else None),
        request_timeout=_REQUEST_SECONDS,
        connect_timeout=_CONNECT_SECONDS,
        # a small file is one request
        allow_delayed_open=True,
    )
