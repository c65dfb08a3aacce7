"""How fast the writer is: rows appended by the caller, and rows that arrive in a SQLite store.

MLflow is imported where it is first used, so that the command starts fast.
"""

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.spool import Spool
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter

_LARGEST_BATCH = 1000  # metrics, of one request to MLflow


def writer_rate(rows: int = 40_000, *, rows_per_call: int = 100, metrics: int = 4) -> dict[str, float]:
    """Log `rows` metric rows of one run into a fresh SQLite store and time it.

    Returns `append_rows_per_second` (until the last call returned), `append_ms` (median of one call of
    `rows_per_call` rows), `append_ms_p99`, `sent_rows_per_second` (until MLflow had them all), and
    `spool_rows_per_second` and `store_rows_per_second`: what the spool and the store themselves take of such rows
    from a caller that does nothing else.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        uri = prepare_store(None, home)
        writer = TrackingWriter(uri, home / "spool" / "spool.db")
        writer.open_run("bench", experiment="bench", name="bench")
        if writer.run_id("bench", timeout=60) is None:
            raise RuntimeError("the store took no run within 60 s")
        calls = []
        start = time.perf_counter()
        for first in range(0, rows, rows_per_call):
            batch = _rows(first, rows_per_call, metrics)
            called = time.perf_counter()
            writer.metrics("bench", batch)
            calls.append(time.perf_counter() - called)
        appended = time.perf_counter() - start
        if not writer.flush(timeout=rows / 500):
            raise RuntimeError(f"{writer.backlog()} events were still waiting after {rows / 500:.0f} s")
        sent = time.perf_counter() - start
        writer.close()
        spool = _spool_rate(home / "alone.db", rows, rows_per_call, metrics)
        store = _store_rate(uri, rows // 4, metrics)
    return {
        "append_rows_per_second": rows / appended,
        "append_ms": statistics.median(calls) * 1e3,
        "append_ms_p99": statistics.quantiles(calls, n=100)[98] * 1e3,
        "sent_rows_per_second": rows / sent,
        "spool_rows_per_second": spool,
        "store_rows_per_second": store,
    }


def _rows(first: int, count: int, metrics: int) -> list[tuple[str, float, int, int]]:
    return [
        (f"metric_{i % metrics}", i * 0.5, i // metrics, 1_700_000_000_000 + i)
        for i in range(first, first + count)
    ]


def _spool_rate(path: Path, rows: int, rows_per_call: int, metrics: int) -> float:
    """Rows a second that a spool takes which nothing reads meanwhile."""
    with closing(Spool(path)) as spool:
        start = time.perf_counter()
        for first in range(0, rows, rows_per_call):
            spool.append("alone", [("metrics", rows_per_call, _rows(first, rows_per_call, metrics))])
        return rows / (time.perf_counter() - start)


def _store_rate(uri: str, rows: int, metrics: int) -> float:
    """Rows a second that MLflow's own client logs, in its largest batches."""
    from mlflow.entities import Metric

    client = open_client(uri)
    run = client.create_run(client.create_experiment("alone")).info.run_id
    logged = [Metric(key, value, timestamp, step) for key, value, step, timestamp in _rows(0, rows, metrics)]
    start = time.perf_counter()
    for first in range(0, rows, _LARGEST_BATCH):
        client.log_batch(run, metrics=logged[first : first + _LARGEST_BATCH])
    return rows / (time.perf_counter() - start)
