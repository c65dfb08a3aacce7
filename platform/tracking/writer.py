"""The one writer to MLflow: callers append to a durable spool and go on; a thread sends it, for hours if need be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
MetricRow = tuple[str, float, int, int]  # key, value, step, timestamp in ms since the epoch


class TrackingWriter:
    """Durable, ordered (per run), idempotent logging to MLflow from one process."""

    def __init__(self, tracking_uri: str, spool_path: Path) -> None:
        raise NotImplementedError

    def open_run(
        self,
        run_key: str,
        *,
        experiment: str,
        name: str,
        parent_key: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
        description: str | None = None,
    ) -> None:
        """Create the run `run_key`, or set it RUNNING again (and update tags, params) where it exists."""

    def metrics(self, run_key: str, rows: Sequence[MetricRow]) -> None:
        """Append (key, value, step, timestamp_ms) rows; a step not above the key's last one is dropped."""

    def tags(self, run_key: str, values: Mapping[str, str]) -> None: ...

    def params(self, run_key: str, values: Mapping[str, object]) -> None: ...

    def text(self, run_key: str, text: str, artifact_file: str) -> None: ...

    def artifact(
        self, run_key: str, path: Path, artifact_path: str | None = None, *, ephemeral: bool = False
    ) -> None:
        """A file or folder into the folder `artifact_path`; `ephemeral` copies it now, as it will not last."""

    def dataset(self, run_key: str, *, name: str, source: str, digest: str, context: str) -> None: ...

    def close_run(self, run_key: str, status: RunStatus, end_time_ms: int | None = None) -> None: ...

    def run_id(self, run_key: str, timeout: float = 0.0) -> str | None:
        """The MLflow run id, waiting up to `timeout` seconds for the run to be created; else None."""
        raise NotImplementedError

    def backlog(self) -> int:
        """Events not yet accepted by MLflow."""
        raise NotImplementedError

    def rejected(self) -> int:
        """Events that MLflow refused for good (kept in the spool's table `rejected`)."""
        raise NotImplementedError

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until MLflow has everything; whether it has."""
        raise NotImplementedError

    def close(self, timeout: float = 30.0) -> bool:
        """flush, then stop the thread; what is left stays in the spool for the next writer on it."""
        raise NotImplementedError
