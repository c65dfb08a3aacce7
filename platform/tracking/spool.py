"""A durable queue of events for MLflow in one SQLite file: what is appended outlives its process."""

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recallfront.platform.errors import UsageError, one_line
from recallfront.platform.home import private_folder, private_opener
from recallfront.platform.tracking.places import sqlite_path

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run_key TEXT NOT NULL, kind TEXT NOT NULL,
    items INTEGER NOT NULL, payload TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_run ON events (run_key, id);
CREATE TABLE IF NOT EXISTS runs (run_key TEXT PRIMARY KEY, run_id TEXT);
CREATE TABLE IF NOT EXISTS steps (
    run_key TEXT NOT NULL, metric TEXT NOT NULL, step INTEGER NOT NULL,
    PRIMARY KEY (run_key, metric)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected (
    id INTEGER PRIMARY KEY, run_key TEXT NOT NULL, kind TEXT NOT NULL,
    payload TEXT NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Event:
    """One thing to tell MLflow about one run; `items` counts its rows (metrics, params or tags; else 1)."""

    id: int
    run_key: str
    kind: str
    items: int
    payload: Any  # what JSON holds


class Spool:
    """The queue. Any thread of one process may use it; a second process is refused.

    One connection under one lock: each operation is far shorter than SQLite's wait for a lock held elsewhere.
    In WAL mode `synchronous=NORMAL` keeps committed events through SIGKILL; a power cut can take the latest.
    """

    def __init__(self, path: Path) -> None:
        private_folder(path.parent)
        self.path, self._folder = path, path.parent.resolve()
        self._lock = threading.Lock()
        self._db = self._open()
        self._run_ids: dict[str, str | None] = dict(self._db.execute("SELECT run_key, run_id FROM runs"))
        self._backlog: int = self._db.execute("SELECT COUNT(*) FROM events").fetchone()[0]

    def _open(self) -> sqlite3.Connection:
        """Open the file; a damaged one is put aside, as trials that have ended report again what it held."""
        try:
            return self._connect()
        except sqlite3.OperationalError as error:
            raise UsageError(
                f"the spool {self.path} is in use by another process or unusable ({error})"
            ) from error
        except sqlite3.DatabaseError as error:
            damaged = self.path.with_name(f"{self.path.name}.damaged")
            logger.warning(
                "the spool %s is damaged (%s): it is kept as %s", self.path, one_line(error), damaged
            )
            for end in ("", "-wal", "-shm"):
                part = Path(f"{self.path}{end}")
                if part.exists():
                    part.replace(f"{damaged}{end}")
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        # SQLite gives its other files the mode of the first
        os.close(private_opener(str(self.path), os.O_CREAT | os.O_CLOEXEC))
        db = sqlite3.connect(self.path, timeout=0.5, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")  # also keeps a second writer out
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(_SCHEMA)
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        except BaseException:
            db.close()
            raise
        return db

    def bind(self, tracking_uri: str) -> None:
        """Say which store the run ids belong to; another store than last time starts without any.

        Raises:
            UsageError: events for the other store still wait here.
        """
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            row = self._db.execute("SELECT value FROM meta WHERE key = 'tracking_uri'").fetchone()
            tracking_uri = self._stored(tracking_uri)
            if row is not None and self._stored(row[0]) != tracking_uri:
                if self._backlog:
                    raise UsageError(
                        f"{self._backlog} events in the spool {self.path} still wait for the MLflow store "
                        f"{row[0]!r}: run again with that store, or move the spool away to give them up"
                    )
                self._forget_runs()
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('tracking_uri', ?)", (tracking_uri,))

    def _stored(self, tracking_uri: str) -> str:
        """A store as it is noted here: a SQLite file relative to the spool, since a home may be moved."""
        path = sqlite_path(tracking_uri)
        return tracking_uri if path is None else f"home:{self.relative(path)}"

    def relative(self, path: Path) -> str:
        """A path within the spool's home relative to the spool; any other as it is."""
        place = path.resolve()
        inside = place.is_relative_to(self._folder.parent)
        return os.path.relpath(place, self._folder) if inside else str(place)

    def absolute(self, stored: str) -> Path:
        """Where a path that `relative` gave is now."""
        return Path(os.path.normpath(self._folder / stored))

    def note_drivers(self, drivers: Iterable[str | None]) -> set[str]:
        """Note which drivers of the sweep this queue has had, or knew of when it went on -> all of them."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            known = self._drivers() | {driver for driver in drivers if driver}
            self._db.execute(
                "INSERT OR REPLACE INTO meta VALUES ('drivers', ?)", (json.dumps(sorted(known)),)
            )
        return known

    def is_behind(self, driver: str | None) -> bool:
        """Whether this driver, the last that the store knows, was another's: what waits here is of before it."""
        with self._lock:
            known = self._drivers()
        return bool(known) and driver is not None and driver not in known

    def _drivers(self) -> set[str]:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'drivers'").fetchone()
        return set() if row is None else set(json.loads(row[0]))

    def drop(self) -> int:
        """Forget what waits, and all runs, whose state others may have changed -> events that are lost so."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM events")
            self._forget_runs()
            dropped, self._backlog = self._backlog, 0
        return dropped

    def _forget_runs(self) -> None:
        self._db.execute("DELETE FROM runs")
        self._db.execute("DELETE FROM steps")
        self._run_ids.clear()

    def append(self, run_key: str, events: Iterable[tuple[str, int, Any]]) -> None:
        """Add (kind, items, payload) events of one run, all or none; they are durable on return."""
        rows = [(run_key, kind, items, json.dumps(payload)) for kind, items, payload in events]
        try:
            self._append(run_key, rows)
        except sqlite3.OperationalError as error:
            raise UsageError(
                f"the spool {self.path} cannot be written ({error}): free space on its disk and run the sweep again"
            ) from error

    def _append(self, run_key: str, rows: list[tuple[str, str, int, str]]) -> None:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if run_key not in self._run_ids:
                    self._db.execute("INSERT INTO runs VALUES (?, NULL)", (run_key,))
                self._db.executemany(
                    "INSERT INTO events (run_key, kind, items, payload) VALUES (?, ?, ?, ?)", rows
                )
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite itself rolls back when the disk is full: doing so again would hide the reason
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._run_ids.setdefault(run_key, None)
            self._backlog += len(rows)

    def knows(self, run_key: str) -> bool:
        return run_key in self._run_ids

    def run_id(self, run_key: str) -> str | None:
        return self._run_ids.get(run_key)

    def backlog(self) -> int:
        return self._backlog

    def last_event(self) -> int:
        """The number of the newest event that waits; 0 if none does."""
        with self._lock:
            return int(self._db.execute("SELECT COALESCE(MAX(id), 0) FROM events").fetchone()[0])

    def rejected(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT COUNT(*) FROM rejected").fetchone()[0])

    def next_run(self, besides: Collection[str] = ()) -> str | None:
        """The run with the oldest event, leaving out some."""
        others = "run_key NOT IN (SELECT value FROM json_each(?))"
        query = f"SELECT run_key FROM events WHERE {others} ORDER BY id LIMIT 1"
        with self._lock:
            row = self._db.execute(query, (json.dumps(list(besides)),)).fetchone()
        return None if row is None else str(row[0])

    def peek(self, run_key: str, items: int) -> list[Event]:
        """The run's oldest events: at least one, and no more than `items` items otherwise."""
        events: list[Event] = []
        with self._lock:
            query = "SELECT id, kind, items, payload FROM events WHERE run_key = ? ORDER BY id"
            for id, kind, count, payload in self._db.execute(query, (run_key,)):
                items -= count
                if events and items < 0:
                    break
                events.append(Event(id, run_key, kind, count, json.loads(payload)))
        return events

    def finish(self, events: Collection[Event], steps: Mapping[str, int] | None = None) -> None:
        """Take off the queue what MLflow has accepted, and note the last step of each metric."""
        if not events:
            return
        run_key = next(iter(events)).run_key
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            gone = self._db.executemany("DELETE FROM events WHERE id = ?", [(event.id,) for event in events])
            self._save_steps(run_key, steps or {})
            self._backlog -= gone.rowcount  # they may have been dropped meanwhile

    def replace(self, event: Event, kind: str, payload: Any) -> None:
        """Put what follows from an event that MLflow has accepted into its place in the queue."""
        with self._lock:
            query = "UPDATE events SET kind = ?, payload = ? WHERE id = ?"
            self._db.execute(query, (kind, json.dumps(payload), event.id))

    def set_run(self, run_key: str, run_id: str | None, steps: Mapping[str, int] | None = None) -> None:
        """Note the MLflow run of `run_key`, and the last steps that it holds; None: it is gone."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", (run_key, run_id))
            self._db.execute("DELETE FROM steps WHERE run_key = ?", (run_key,))
            self._save_steps(run_key, steps or {})
        self._run_ids[run_key] = run_id

    def last_steps(self, run_key: str) -> dict[str, int]:
        with self._lock:
            return dict(self._db.execute("SELECT metric, step FROM steps WHERE run_key = ?", (run_key,)))

    def _save_steps(self, run_key: str, steps: Mapping[str, int]) -> None:
        rows = [(run_key, metric, step) for metric, step in steps.items()]
        self._db.executemany("INSERT OR REPLACE INTO steps VALUES (?, ?, ?)", rows)

    def reject(self, run_key: str, kind: str, payload: Any, reason: str) -> None:
        """Put aside what MLflow will never accept."""
        row = (run_key, kind, json.dumps(payload), reason, time.time())
        with self._lock:
            self._db.execute(
                "INSERT INTO rejected (run_key, kind, payload, reason, time) VALUES (?, ?, ?, ?, ?)", row
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()
