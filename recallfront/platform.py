"""The package `recallfront.platform`: its public names, and the folder `platform/` as its submodules.

This file stands in for `platform/__init__.py`, which must not exist: with the checkout's root on `sys.path` that
would hide the standard library's `platform`. Names are loaded on first use, so that a submodule that needs torch
alone does not pull in Ray or MLflow.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__path__ = [str(Path(__file__).with_suffix(""))]

_HOME_OF: dict[str, str] = {}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
