"""The home: the one folder of all outputs."""

import os
from pathlib import Path


def home_folder(home: Path | str | None = None) -> Path:
    """The folder of all outputs: as given, else RECALLFRONT_HOME, else `recallfront-home` here."""
    return Path(home or os.environ.get("RECALLFRONT_HOME") or "recallfront-home")
