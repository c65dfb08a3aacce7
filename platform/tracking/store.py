"""The MLflow store: chosen, checked and initialised once, before anything runs in parallel.

MLflow is imported where it is first used, so that the command starts fast.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from filelock import FileLock

from recallfront.platform.errors import UsageError, refuse_credentials, root_cause
from recallfront.platform.home.address import address_behind
from recallfront.platform.tracking.client import fail_fast, open_client
from recallfront.platform.tracking.places import ARTIFACTS, sqlite_path

PING_SECONDS: Final = 4


def prepare_store(tracking_uri: str | None, home: Path, *, create: bool = True) -> str:
    """The tracking URI to use from here on, checked to answer; None is MLFLOW_TRACKING_URI, else home/mlflow.db.

    A SQLite store is made under a file lock, since processes that make it together collide in its migrations, and
    under another name, which it loses once it is whole. Whoever only reads gives `create=False`: looking for a sweep
    in the wrong place shall leave nothing there.

    Raises:
        UsageError: the URI is of a kind that is not supported, does not answer, or holds an older schema; or there is
            no store and none shall be created.
    """
    uri = _chosen_uri(tracking_uri, home)
    refuse_password(uri)
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _ping(uri)
        return uri
    if scheme == "sqlite":
        return _prepare_sqlite(uri, create=create)
    raise UsageError(
        f"tracking URI {uri!r} is not supported: allowed are http(s)://HOST:PORT of an MLflow server and sqlite:///FILE"
        " (for PostgreSQL, start `mlflow server --backend-store-uri` on it and give that server's address)"
        + (
            "; MLFLOW_TRACKING_URI names it, and --tracking-uri comes before that"
            if tracking_uri is None
            else ""
        )
    )


def find_store(tracking_uri: str | None, home: Path) -> str:
    """The tracking URI of a store that is only read by the ledger; as `prepare_store`, but a SQLite file is not opened.

    Raises:
        UsageError: as `prepare_store` does.
    """
    uri = _chosen_uri(tracking_uri, home)
    database = sqlite_path(uri)
    if database is None:
        return prepare_store(tracking_uri, home, create=False)
    refuse_password(uri)
    _require_store(database)
    return f"sqlite:///{database}"


def refuse_password(tracking_uri: str) -> None:
    """Raise UsageError if a URI cannot be read, or holds a user or a password."""
    refuse_credentials(
        "tracking URI",
        tracking_uri,
        "a server's user and password are read from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )


def _chosen_uri(tracking_uri: str | None, home: Path) -> str:
    if tracking_uri is not None:
        return tracking_uri
    return os.environ.get("MLFLOW_TRACKING_URI") or _default_uri(home)


def _require_store(database: Path) -> None:
    if not _is_made(database):
        raise UsageError(
            f"there is no MLflow store at {database}: run a sweep first, or name its place with --home or "
            "--tracking-uri"
        )


def _default_uri(home: Path) -> str:
    if (address := address_behind(home)) is not None:
        raise UsageError(
            f"home {address!r}: name the MLflow store with --tracking-uri or MLFLOW_TRACKING_URI: http(s)://HOST:PORT "
            "of a server, or sqlite:///FILE for records on this machine alone"
        )
    database = (home / "mlflow.db").resolve()
    if any(mark in str(database) for mark in "?#%"):
        raise UsageError(
            f"home {str(home)!r}: must not contain ?, # or %, which mean something else in a store's URI"
        )
    return f"sqlite:///{database}"


def _prepare_sqlite(uri: str, *, create: bool) -> str:
    database = sqlite_path(uri)
    if database is None:
        raise UsageError(
            f"tracking URI {uri!r} names no file: write sqlite:///relative.db or sqlite:////absolute.db"
        )
    if not create:
        _require_store(database)
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            if not _is_made(database):
                _make(database)
            absolute = f"sqlite:///{database}"
            open_client(absolute).search_experiments(max_results=1)
            (database.parent / ARTIFACTS).mkdir(exist_ok=True)
    except Exception as error:
        if "out-of-date database schema" in str(error):
            raise UsageError(
                f"the store {uri!r} was made by another MLflow version: run `mlflow db upgrade {uri}` first"
            ) from error
        raise UsageError(f"the MLflow store {uri!r} cannot be opened: {root_cause(error)}") from error
    return absolute


def _is_made(database: Path) -> bool:
    """Whether the file is there and was not left unfinished: the last thing MLflow makes is its first experiment."""
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(database, timeout=30.0)) as connection:
            return connection.execute("SELECT 1 FROM experiments").fetchone() is not None
    except sqlite3.DatabaseError as error:
        return "no such table" not in str(error)  # MLflow says what is wrong with any other file


def _make(database: Path) -> None:
    """Make the store whole or not at all; what an interrupted process left in its place is kept beside it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = database.with_name(f"{database.name}.new")
    for left in database.parent.glob(f"{new.name}*"):
        left.unlink()
    uri = f"sqlite:///{new}"
    open_client(uri)  # makes MLflow quiet
    store = SqlAlchemyStore(uri, (database.parent / ARTIFACTS).as_uri())
    store.engine.dispose()
    if database.exists():
        database.replace(database.with_name(f"{database.name}.unfinished"))
        database.with_name(f"{database.name}-journal").unlink(missing_ok=True)
    new.rename(database)


def _ping(uri: str) -> None:
    """Ask the API for one experiment: proves address, token, and that MLflow answers there."""
    if not urlsplit(uri).hostname:
        raise UsageError(f"tracking URI {uri!r} names no host: write http://HOST:PORT")
    try:
        with fail_fast(PING_SECONDS):
            open_client(uri).search_experiments(max_results=1)
    except Exception as error:
        raise UsageError(
            f"the MLflow server at {uri!r} does not answer as MLflow does: {root_cause(error)}"
        ) from error
