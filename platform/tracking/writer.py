"""The one writer to MLflow: callers append to a durable spool and continue; a thread sends it, come what may."""

import logging
import random
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from recallfront.platform.errors import root_cause, without_secrets
from recallfront.platform.results.reports import MetricRow
from recallfront.platform.tracking.client import fail_fast
from recallfront.platform.tracking.refusals import NotYet, Refusal, refusal_of
from recallfront.platform.tracking.sender import FINAL, MAX_OF_KIND, Sender
from recallfront.platform.tracking.spool import Spool

logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

MAX_PARAM: Final = 6000  # characters; MLflow would cut longer values silently
MAX_TAG: Final = 8000
# of params or tags in one event, so that one request stays below MLflow's 1 MB
EVENT_CHARACTERS: Final = 100_000
LINGER_SECONDS: Final = 3.0  # a run's trickle is collected into one request: each costs some 30 ms of a core
FIRST_BACKOFF: Final = 0.5
LAST_BACKOFF: Final = 10.0
DOUBTFUL_TRIES: Final = 5
REQUEST_SECONDS: Final = 60


class TrackingWriter:
    """Durable, ordered (per run), idempotent logging to MLflow from one process.

    A method returns when its event is on disk, in well under a millisecond, whatever the server does. The
    thread sends the events of each run in order, each until MLflow has accepted or refused it for what it
    says. After a crash the next writer on the same spool continues: a run is looked up by its tag
    `recallfront.run_key` before it is created, and metrics sent twice are the same rows to MLflow. A
    metric's steps must rise: a row whose step is not above the last one of its run and key is dropped, so
    that the steps a resumed trial repeats are logged once.

    Any thread may call; one process at a time may hold a spool.

    A sweep's spool knows the drivers that it has had: if another one has followed them, `last_driver`, what waits is
    of before it and is dropped, for it would overwrite what that one has told.

    Raises:
        UsageError: the spool is held by another process, or has events waiting for another store.
    """

    def __init__(self, tracking_uri: str, spool_path: Path, *, last_driver: str | None = None) -> None:
        self._spool = Spool(spool_path)
        try:
            self._spool.bind(tracking_uri)
            if self._spool.is_behind(last_driver) and (dropped := self._spool.drop()):
                logger.warning(
                    "%d events of an earlier driver are dropped: another one has followed it", dropped
                )
        except BaseException:
            self._spool.close()
            raise
        self._given_up = False
        self._files = spool_path.with_suffix(".files")
        self._sender = Sender(tracking_uri, self._spool)
        self._waits: dict[str, _Wait] = {}
        self._moments, self._last_moment = threading.Lock(), 0
        self._changed = threading.Condition()  # the backlog shrank, or a run got its id
        self._wake = threading.Event()  # there is something to do now
        self._hurry = threading.Event()  # somebody waits: do not linger
        self._stop = threading.Event()
        self._down_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
        self._thread.start()

    # --- what callers append ---

    def open_run(
        self,
        run_key: str,
        *,
        experiment: str,
        name: str,
        parent_key: str | None = None,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        description: str | None = None,
        is_new: bool = False,
    ) -> None:
        """Create the run `run_key`, or set it RUNNING again (and update its tags and params) where it exists.

        `is_new` says that no other writer has made it, so that the store need not be searched for it.

        Raises:
            ValueError: the parent was not opened on this spool.
        """
        if "'" in run_key:
            raise ValueError(f"run_key {run_key!r} must not hold a single quote")
        if parent_key is not None:
            self._require(parent_key)
        wanted = {
            "experiment": experiment,
            "name": name,
            "parent_key": parent_key,
            "start_time_ms": self._moment(),
            "is_new": is_new,
        }
        all_tags = dict(tags or {}) | ({"mlflow.note.content": description} if description else {})
        self._append(
            run_key,
            ("open", 1, wanted),
            *_pairs("tags", all_tags, MAX_TAG),
            *_pairs("params", params or {}, MAX_PARAM),
        )

    def metrics(
        self,
        run_key: str,
        rows: Sequence[MetricRow],
        *,
        final: bool = False,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        """Append (key, value, step, timestamp_ms) rows; each key's steps must rise, others are dropped.

        `final` ones are what the metrics are from now on, whatever the run has at their steps or above. `tags` are told
        in the same request.
        """
        self._require(run_key)
        plain = [(key, float(value), int(step), int(timestamp)) for key, value, step, timestamp in rows]
        most = MAX_OF_KIND["metrics"]
        chunks = [plain[start : start + most] for start in range(0, len(plain), most)]
        kind = FINAL if final else "metrics"
        told = _pairs("tags", tags or {}, MAX_TAG)
        self._append(run_key, *((kind, len(chunk), chunk) for chunk in chunks), *told)

    def tags(self, run_key: str, values: Mapping[str, object]) -> None:
        """Set tags; a value beyond MLflow's 8000 characters loses its middle."""
        self._require(run_key)
        self._append(run_key, *_pairs("tags", values, MAX_TAG))

    def params(self, run_key: str, values: Mapping[str, object]) -> None:
        """Set params (once: MLflow refuses another value); one beyond 6000 characters loses its middle."""
        self._require(run_key)
        self._append(run_key, *_pairs("params", values, MAX_PARAM))

    def text(self, run_key: str, text: str, artifact_file: str, *, digest_tag: str | None = None) -> None:
        """Store `text` as the artifact `artifact_file` (a relative path), in place of an earlier one.

        Once it is stored, the tag `digest_tag`, if any, gets its digest.
        """
        self._require(run_key)
        payload = {"text": text, "artifact_file": artifact_file, "digest_tag": digest_tag}
        self._append(run_key, ("text", 1, payload))

    def artifact(
        self, run_key: str, path: Path, artifact_path: str | None = None, *, ephemeral: bool = False
    ) -> None:
        """Store a file or folder, under its own name, in the run's artifact folder `artifact_path`.

        It is read when it is sent, which may be hours later: `ephemeral` copies it now.
        """
        self._require(run_key)
        path = path.resolve()
        if ephemeral:
            kept = self._files / uuid.uuid4().hex / path.name
            kept.parent.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, kept)
            else:
                shutil.copy2(path, kept)
            path = kept
        payload = {"path": self._spool.relative(path), "artifact_path": artifact_path, "ephemeral": ephemeral}
        self._append(run_key, ("artifact", 1, payload))

    def dataset(self, run_key: str, *, name: str, source: str, digest: str, context: str) -> None:
        """Note a dataset as the run's input; MLflow keeps 36 characters of the digest."""
        self._require(run_key)
        payload = {"name": name, "source": source, "digest": digest, "context": context}
        self._append(run_key, ("dataset", 1, payload))

    def close_run(self, run_key: str, status: RunStatus, end_time_ms: int | None = None) -> None:
        """End the run; it can be opened again."""
        self._require(run_key)
        end = end_time_ms if end_time_ms is not None else self._moment()
        self._append(run_key, ("close", 1, {"status": status, "end_time_ms": end}))

    def _moment(self) -> int:
        """Now in ms since the epoch, but later than any before: the ledger tells the order of runs by it."""
        with self._moments:
            self._last_moment = max(self._last_moment + 1, time.time_ns() // 1_000_000)
            return self._last_moment

    def knows(self, run_key: str) -> bool:
        """Whether a run was opened on this spool, now or by an earlier writer."""
        return self._spool.knows(run_key)

    def adopt(self, run_id: str) -> str:
        """The key for tags of a run that another spool has opened: its id alone is known."""
        run_key = f"run:{run_id}"
        if not self.knows(run_key):
            self._spool.set_run(run_key, run_id)
        return run_key

    def note_drivers(self, *drivers: str | None) -> set[str]:
        """Note this sweep's driver, and the last one that the store knew when it began -> all that were noted."""
        return self._spool.note_drivers(drivers)

    def give_up(self) -> None:
        """Drop what waits and whatever is still to come: another process writes to these runs by now."""
        self._given_up = True
        self._spool.drop()

    def _require(self, run_key: str) -> None:
        if not self.knows(run_key) and not self._given_up:
            raise ValueError(f"run {run_key!r} was not opened on this spool")

    def _append(self, run_key: str, *events: tuple[str, int, Any]) -> None:
        if events and not self._given_up:
            self._spool.append(run_key, events)
            self._wake.set()

    # --- how it stands ---

    def run_id(self, run_key: str, timeout: float = 0.0) -> str | None:
        """The MLflow run id, waiting up to `timeout` seconds for the run to be created; else None."""
        with self._changed:
            self._changed.wait_for(lambda: self._spool.run_id(run_key) is not None, timeout)
        return self._spool.run_id(run_key)

    def backlog(self) -> int:
        """Events that MLflow has not answered for yet."""
        return self._spool.backlog()

    def rejected(self) -> int:
        """Events or items that MLflow refused for good, kept in the spool's table `rejected`."""
        return self._spool.rejected()

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until MLflow has answered for everything that is sent; whether it has."""
        self._hurry.set()
        self._wake.set()
        with self._changed:
            return self._changed.wait_for(lambda: self._given_up or self._spool.backlog() == 0, timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """flush, then stop the thread; what is left stays in the spool for the next writer on it."""
        done = self.flush(timeout)
        self._stop.set()
        self._wake.set()
        # longer only while it waits for an answer of MLflow: a daemon thread may end so
        self._thread.join(1.0)
        return done

    # --- the thread ---

    def _run(self) -> None:
        with fail_fast(REQUEST_SECONDS):
            while not self._stop.is_set():
                self._wake.clear()
                try:
                    if not self._send_next():
                        self._wake.wait(self._pause())
                except Exception:
                    logger.exception("the spool %s cannot be used; trying again", self._spool.path)
                    self._stop.wait(LAST_BACKOFF)
        self._spool.close()

    def _send_next(self) -> bool:
        """Send something of the run that has waited longest; False if no run is due."""
        if self._given_up:  # what waits may not have been dropped: the disk may be full
            return False
        now = time.monotonic()
        hurry = self._hurry.is_set()
        waiting = [key for key, wait in self._waits.items() if now < wait.until and (wait.tries or not hurry)]
        run_key = self._spool.next_run(besides=waiting)
        if run_key is None:
            if not self._spool.backlog():
                self._hurry.clear()
            return False
        wait = self._waits.pop(run_key, _Wait())
        try:
            more = self._sender.step(run_key, last_try=wait.doubts + 1 >= DOUBTFUL_TRIES)
        except Exception as error:
            self._failed(run_key, wait, error)
        else:
            self._report_up()
            if not more:
                self._waits[run_key] = _Wait(until=now + LINGER_SECONDS)
        with self._changed:
            self._changed.notify_all()
        return True

    def _failed(self, run_key: str, wait: "_Wait", error: Exception) -> None:
        refusal = refusal_of(error)
        doubts = wait.doubts + (refusal is Refusal.DOUBTFUL)
        if refusal is Refusal.PERMANENT or doubts >= DOUBTFUL_TRIES:
            self._sender.reject(run_key, without_secrets(str(error)) or type(error).__name__)
            return
        backoff = min(FIRST_BACKOFF * 2.0 ** min(wait.tries, 10), LAST_BACKOFF) * random.uniform(0.5, 1.0)
        self._waits[run_key] = _Wait(wait.tries + 1, doubts, time.monotonic() + backoff)
        if not isinstance(error, NotYet):
            self._report_down(error)

    def _pause(self) -> float | None:
        """Seconds until the first waiting run is due; None: until something is appended."""
        now = time.monotonic()
        self._waits = {key: wait for key, wait in self._waits.items() if wait.tries or wait.until > now}
        if not self._spool.backlog():
            return None
        return max(0.0, min((wait.until for wait in self._waits.values()), default=now + 1.0) - now)

    def _report_down(self, error: Exception) -> None:
        if self._down_since is None:
            self._down_since = time.monotonic()
            logger.warning(
                "MLflow does not take events (%s); the sweep continues and they wait in %s",
                root_cause(error),
                self._spool.path,
            )

    def _report_up(self) -> None:
        if self._down_since is not None:
            logger.warning("MLflow takes events again, after %.0f s", time.monotonic() - self._down_since)
            self._down_since = None


@dataclass(frozen=True)
class _Wait:
    """Why a run is left alone until `until` (monotonic seconds): it failed, or (no tries) more may come."""

    tries: int = 0
    doubts: int = 0
    until: float = 0.0


def _pairs(
    kind: str, values: Mapping[str, object], most: int
) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    """Events of (key, shortened value) pairs, each small enough for one request."""
    chunk: list[tuple[str, str]] = []
    size = 0
    for key, value in values.items():
        text = shorten(str(value), most)
        if chunk and (len(chunk) == MAX_OF_KIND[kind] or size + len(text) > EVENT_CHARACTERS):
            yield kind, len(chunk), chunk
            chunk, size = [], 0
        chunk.append((key, text))
        size += len(text)
    if chunk:
        yield kind, len(chunk), chunk


def shorten(text: str, most: int) -> str:
    """`text` in at most `most` characters, an ellipsis for its middle: a traceback's end says most."""
    if len(text) <= most:
        return text
    head = (most - 5) // 2
    return f"{text[:head]} ... {text[len(text) - (most - 5 - head) :]}"
