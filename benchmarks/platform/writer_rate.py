"""How fast the writer is: rows appended by the caller, and rows that arrive in a SQLite store."""

import statistics
import tempfile
import time
from pathlib import Path

from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter


def writer_rate(rows: int = 40_000, *, rows_per_call: int = 100, metrics: int = 4) -> dict[str, float]:
    """Log `rows` metric rows of one run into a fresh SQLite store and time it.

    Returns `append_rows_per_second` (until the last call returned), `append_ms` (median of one call of
    `rows_per_call` rows), `append_ms_p99`, and `sent_rows_per_second` (until MLflow had them all).
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        writer = TrackingWriter(prepare_store(None, home), home / "spool" / "spool.db")
        writer.open_run("bench", experiment="bench", name="bench")
        if writer.run_id("bench", timeout=60) is None:
            raise RuntimeError("the store took no run within 60 s")
        calls = []
        start = time.perf_counter()
        for first in range(0, rows, rows_per_call):
            batch = [
                (f"metric_{i % metrics}", i * 0.5, i // metrics, 1_700_000_000_000 + i)
                for i in range(first, first + rows_per_call)
            ]
            called = time.perf_counter()
            writer.metrics("bench", batch)
            calls.append(time.perf_counter() - called)
        appended = time.perf_counter() - start
        if not writer.flush(timeout=rows / 500):
            raise RuntimeError(f"{writer.backlog()} events were still waiting after {rows / 500:.0f} s")
        sent = time.perf_counter() - start
        writer.close()
    return {
        "append_rows_per_second": rows / appended,
        "append_ms": statistics.median(calls) * 1e3,
        "append_ms_p99": statistics.quantiles(calls, n=100)[98] * 1e3,
        "sent_rows_per_second": rows / sent,
    }
