"""What MLflow's client reads of a SQLite store, read without MLflow: importing it takes three seconds.

It answers as the client does, for the questions that the ledger asks. A store that it does not know is MLflow's own to
read, and to say what is wrong with it.
"""

import re
import sqlite3
import threading
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import unquote, urlsplit

from recallfront.platform.errors import UsageError
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.places import artifact_root, sqlite_path

_WAIT_SECONDS: Final = 30.0  # for another process to finish what it writes
_AT_ONCE: Final = 500  # runs whose tags are asked for together
_CLAUSE: Final = re.compile(
    r"(?:attributes\.(?P<own>run_id)|tags\.`(?P<tag>[^`]+)`) (?P<op>=|LIKE) '(?P<value>[^']*)'"
)
_guard: Final = threading.Lock()
# of stores whose state is asked for: device and inode of the file, and the connection that is told of writes
_watched: Final = dict[Path, tuple[tuple[int, int], sqlite3.Connection]]()
_COLUMNS: Final = {
    "experiments": {"experiment_id", "name", "lifecycle_stage"},
    "runs": {
        "run_uuid",
        "experiment_id",
        "status",
        "start_time",
        "end_time",
        "lifecycle_stage",
        "artifact_uri",
    },
    "tags": {"run_uuid", "key", "value"},
    "latest_metrics": {"run_uuid", "key", "value", "is_nan"},
}


def store_state(tracking_uri: str) -> Hashable:
    """A value that changes with each write to a SQLite store; None if it is not known, and for any other store.

    It means something within this process alone: SQLite tells a connection that stays open of what others have written.
    """
    database = sqlite_path(tracking_uri)
    if database is None:
        return None
    with _guard:
        try:
            about = database.stat()
            place = about.st_dev, about.st_ino
            watched = _watched.get(database)
            if watched is None or watched[0] != place:  # another file has taken its place
                watched = place, sqlite3.connect(database, timeout=_WAIT_SECONDS, check_same_thread=False)
                if before := _watched.pop(database, None):
                    before[1].close()
                _watched[database] = watched
            (version,) = watched[1].execute("PRAGMA data_version").fetchone()
        except (OSError, sqlite3.Error):
            return None
    return *place, id(watched[1]), version


class StoreReader(Protocol):
    """The part of MLflow's client that the ledger reads with."""

    def search_experiments(self, *, max_results: int, page_token: str | None) -> Any: ...

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str,
        *,
        max_results: int,
        order_by: list[str],
        page_token: str | None,
    ) -> Any: ...

    def get_run(self, run_id: str) -> Any: ...

    def list_artifacts(self, run_id: str, path: str | None = None) -> Any: ...

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str: ...


_Item = TypeVar("_Item")


@dataclass(frozen=True)
class _Experiment:
    experiment_id: str
    name: str


@dataclass(frozen=True)
class _Info:
    run_id: str
    experiment_id: str
    status: str
    start_time: int  # ms since the epoch
    end_time: int | None
    artifact_uri: str


@dataclass(frozen=True)
class _Data:
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    info: _Info
    data: _Data


@dataclass(frozen=True)
class _File:
    path: str


class _Page(list[_Item]):
    """All that there is, as MLflow's last page of it."""

    token = None


class SqliteReader:
    """A SQLite store as MLflow's client shows it; nothing is written."""

    def __init__(self, tracking_uri: str, database: Path) -> None:
        self._uri = tracking_uri
        self._connection = sqlite3.connect(database, timeout=_WAIT_SECONDS)

    @classmethod
    def open(cls, tracking_uri: str) -> Self | None:
        """A reader of a store that it knows; None for any other.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        database = sqlite_path(tracking_uri)
        if database is None or not database.exists():
            return None
        reader = cls(tracking_uri, database)
        if all(columns <= reader._columns(table) for table, columns in _COLUMNS.items()):
            return reader
        reader.close()
        return None

    def close(self) -> None:
        self._connection.close()

    def search_experiments(self, *, max_results: int, page_token: str | None) -> _Page[_Experiment]:
        rows = self._rows("SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active'", ())
        return _Page(_Experiment(str(number), name) for number, name in rows)

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str,
        *,
        max_results: int,
        order_by: list[str],
        page_token: str | None,
    ) -> _Page[_Run]:
        wheres, values = ["lifecycle_stage = 'active'"], list[str]()
        for clause in filter_string.split(" AND "):
            found = _CLAUSE.fullmatch(clause)
            if found is None:
                raise ValueError(f"filter {clause!r} is none of the ledger's")
            if found["own"]:
                wheres.append(f"run_uuid {found['op']} ?")
            else:
                wheres.append(
                    f"run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value {found['op']} ?)"
                )
                values.append(found["tag"])
            values.append(found["value"])
        direction = "DESC" if order_by[0].endswith("DESC") else "ASC"
        order = f"ORDER BY start_time {direction}, run_uuid"
        wanted = set(experiment_ids)
        runs = [
            info for info in self._infos(" AND ".join(wheres), values, order) if info.experiment_id in wanted
        ]
        return _Page(self._with_data(runs))

    def get_run(self, run_id: str) -> _Run:
        infos = self._infos("run_uuid = ?", [run_id])
        if not infos:
            raise UsageError(f"the MLflow store {self._uri!r} has no run {run_id}")
        return self._with_data(infos)[0]

    def list_artifacts(self, run_id: str, path: str | None = None) -> Any:
        root = self._folder(run_id)
        if root is None:
            return open_client(self._uri).list_artifacts(run_id, path)
        folder = root / (path or "")
        return (
            [_File(file.relative_to(root).as_posix()) for file in folder.iterdir()] if folder.is_dir() else []
        )

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        root = self._folder(run_id)
        if root is None:
            return str(open_client(self._uri).download_artifacts(run_id, path, dst_path))
        return str(root / path)

    def _folder(self, run_id: str) -> Path | None:
        """Where a run's artifacts lie on this machine; None if they are in an object store."""
        try:
            place = artifact_root(self._uri, self.get_run(run_id).info.artifact_uri)
        except ValueError as error:
            raise UsageError(f"the MLflow store {self._uri!r} cannot be read: {error}") from None
        parts = urlsplit(place or "")
        return Path(unquote(parts.path)) if parts.scheme == "file" else None

    def _infos(self, where: str, values: Sequence[str], order: str = "") -> list[_Info]:
        columns = "run_uuid, experiment_id, status, start_time, end_time, artifact_uri"
        rows = self._rows(f"SELECT {columns} FROM runs WHERE {where} {order}", values)
        return [_Info(row[0], str(row[1]), row[2], row[3], row[4], row[5] or "") for row in rows]

    def _with_data(self, infos: Sequence[_Info]) -> list[_Run]:
        data = {info.run_id: _Data() for info in infos}
        names = list(data)
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            within = f"WHERE run_uuid IN ({', '.join('?' * len(some))})"
            for run, key, value in self._rows(f"SELECT run_uuid, key, value FROM tags {within}", some):
                data[run].tags[key] = value
            metrics = self._rows(f"SELECT run_uuid, key, value, is_nan FROM latest_metrics {within}", some)
            for run, key, number, is_nan in metrics:
                # of a damaged number SQLite makes NULL where it is none any more
                data[run].metrics[key] = float("nan") if is_nan or number is None else float(number)
        return [_Run(info, data[info.run_id]) for info in infos]

    def _columns(self, table: str) -> set[str]:
        return {row[1] for row in self._rows(f"PRAGMA table_info({table})", ())}

    def _rows(self, query: str, values: Iterable[str]) -> list[Any]:
        return self._connection.execute(query, tuple(values)).fetchall()
