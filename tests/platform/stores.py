"""Homes whose MLflow store is there already: MLflow takes seconds to make one, all its migrations one after another."""

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from recallfront.platform.tracking.store import prepare_store


@lru_cache
def _made_once() -> "tempfile.TemporaryDirectory[str]":
    made = tempfile.TemporaryDirectory(prefix="recallfront-store-")
    prepare_store(None, Path(made.name))
    return made


def ready_home(home: Path) -> Path:
    """`home`, made if need be, with an empty store in it."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(_made_once().name) / "mlflow.db", home / "mlflow.db")
    return home


def ready_store(home: Path) -> str:
    """The tracking URI of an empty store in `home`."""
    return prepare_store(None, ready_home(home))
