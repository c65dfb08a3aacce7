"""The MLflow store: chosen, checked and initialised once, before anything runs in parallel."""

from pathlib import Path


def prepare_store(tracking_uri: str | None, home: Path) -> str:
    """The tracking URI to use from here on; None means a SQLite file in `home`. Raises UsageError."""
    raise NotImplementedError
