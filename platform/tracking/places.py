"""Where a run's artifacts may lie: the store names the place, and is not trusted with any other folder or host."""

import re
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

ARTIFACTS: Final = "mlartifacts"  # the folder beside a SQLite file
# whoever can write there has been given the right to by the store's own cloud account
_OBJECT_STORES: Final = frozenset({"s3", "gs", "r2", "b2", "wasbs", "abfss", "hdfs", "viewfs"})
_OF_A_SERVER: Final = frozenset({"mlflow-artifacts", "http", "https"})
_PORTS: Final = {"http": 80, "https": 443}


def sqlite_path(tracking_uri: str) -> Path | None:
    """The database file of a `sqlite:///` URI, made absolute; None for any other URI."""
    parts = urlsplit(tracking_uri)
    return Path(unquote(parts.path)[1:]).resolve() if parts.scheme == "sqlite" and parts.path[1:] else None


def artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its artifacts: beside a SQLite file; None leaves it to the server."""
    database = sqlite_path(tracking_uri)
    if database is None:
        return None
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip(".-") or "experiment"
    return (database.parent / ARTIFACTS / folder).as_uri()


def artifact_root(tracking_uri: str, named: str) -> str | None:
    """Where the artifacts of a run are read and written, when the store `tracking_uri` says that they are at `named`.

    A SQLite store keeps them beside its file, also when both were moved since. A server keeps them itself (None: they
    are to be asked for there, as a folder that it names is one of its own machine) or in an object store.

    Raises:
        ValueError: the place is not allowed: a folder elsewhere, or another host, which would get this user's token.
    """
    scheme = urlsplit(named).scheme
    database = sqlite_path(tracking_uri)
    if scheme in _OBJECT_STORES:
        return named
    if database is not None:
        return _beside(database, named)
    if scheme in ("", "file"):
        return None
    if scheme in _OF_A_SERVER and _is_served_by(tracking_uri, named):
        return named
    raise ValueError(
        f"the server {tracking_uri} keeps artifacts at {named!r}: neither its own nor an object store"
    )


def _is_served_by(tracking_uri: str, named: str) -> bool:
    """Whether an artifact URI is on the tracking server's own host and port; no host means that server."""
    own, other = urlsplit(tracking_uri), urlsplit(named)
    if other.scheme == "mlflow-artifacts":
        if not other.netloc:
            return True
        scheme = own.scheme
    else:
        scheme = other.scheme
    there = (scheme, other.hostname, other.port or _PORTS.get(scheme))
    return there == (own.scheme, own.hostname, own.port or _PORTS.get(own.scheme))


def _beside(database: Path, named: str) -> str:
    parts = urlsplit(named)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise ValueError(f"the store {database} keeps artifacts at {named!r}, which is not beside it")
    place = Path(unquote(parts.path) if parts.scheme else named).resolve()
    if not place.is_relative_to(database.parent):
        # the store was moved or copied: what lay beside it then lies beside it now
        inner = PurePosixPath(place.as_posix()).parts
        if ARTIFACTS not in inner:
            raise ValueError(f"the store {database} keeps artifacts at {named!r}, which is not beside it")
        last = len(inner) - 1 - inner[::-1].index(ARTIFACTS)
        place = database.parent.joinpath(*inner[last:])
    return place.as_uri()
