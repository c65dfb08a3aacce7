"""The package `recallfront.platform`: its public names, and the folder `platform/` as its submodules.

This file stands in for `platform/__init__.py`, which must not exist: with the checkout's root on `sys.path` that
would hide the standard library's `platform`. Names are loaded on first use, so that a submodule that needs torch
alone does not pull in Ray or MLflow.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recallfront.platform.errors import UsageError
    from recallfront.platform.front.front import Front, front
    from recallfront.platform.front.pick import Picked, pick
    from recallfront.platform.rerun import rerun
    from recallfront.platform.sweep.run import SweepResult, run_sweep
    from recallfront.sweeps.spec import SweepSpec
    from recallfront.sweeps.trial import TrialConfig

__all__ = [
    "Front",
    "Picked",
    "SweepResult",
    "SweepSpec",
    "TrialConfig",
    "UsageError",
    "front",
    "pick",
    "rerun",
    "run_sweep",
]

__path__ = [str(Path(__file__).with_suffix(""))]

_HOMES = {
    "Front": "platform.front.front",
    "Picked": "platform.front.pick",
    "SweepResult": "platform.sweep.run",
    "SweepSpec": "sweeps.spec",
    "TrialConfig": "sweeps.trial",
    "UsageError": "platform.errors",
    "front": "platform.front.front",
    "pick": "platform.front.pick",
    "rerun": "platform.rerun",
    "run_sweep": "platform.sweep.run",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"recallfront.{_HOMES[name]}"), name)
