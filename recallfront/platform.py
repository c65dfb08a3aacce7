"""Runs sweeps, and finds, picks and reruns what they found.

- run_sweep: run a sweep, or resume it -> SweepResult
- claims: the verdicts on the claims of a sweep -> a Judgement each
- front: the Pareto front of a sweep -> Front; a notebook shows it
- sweep: a sweep's results as pandas frames -> Sweep
- compare: a sweep against an earlier one -> SweepComparison
- pick: choose one configuration of a sweep -> Picked
- evaluate: a finished model on the recall suite -> Evaluation
- rerun: run a trial again from its lineage, and compare -> Rerun, which has the verdict
- SweepSpec, TrialConfig: a sweep and a trial as configurations
- UsageError: what these functions raise if the caller can fix the cause
"""

# This file stands in for `platform/__init__.py`, which must not exist: with the checkout's root on `sys.path` that
# would hide the standard library's `platform`. Names are loaded on first use, so that a submodule that needs torch
# alone does not pull in Ray or MLflow.

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recallfront.platform.errors import UsageError
    from recallfront.platform.evaluation.recall_suite import Evaluation, evaluate
    from recallfront.platform.front.claims import Judgement, claims
    from recallfront.platform.front.compare import SweepComparison, compare
    from recallfront.platform.front.front import Front
    from recallfront.platform.front.pick import Picked, pick
    from recallfront.platform.front.pictures.notebook import Sweep, front, sweep
    from recallfront.platform.rerun import Rerun, rerun
    from recallfront.platform.sweep.run import SweepResult, run_sweep
    from recallfront.sweeps.spec import SweepSpec
    from recallfront.sweeps.trial import TrialConfig

__all__ = [
    "Evaluation",
    "Front",
    "Judgement",
    "Picked",
    "Rerun",
    "Sweep",
    "SweepComparison",
    "SweepResult",
    "SweepSpec",
    "TrialConfig",
    "UsageError",
    "claims",
    "compare",
    "evaluate",
    "front",
    "pick",
    "rerun",
    "run_sweep",
    "sweep",
]

__path__ = [str(Path(__file__).with_suffix(""))]

_HOMES = {
    "Evaluation": "platform.evaluation.recall_suite",
    "Front": "platform.front.front",
    "Judgement": "platform.front.claims",
    "Picked": "platform.front.pick",
    "Rerun": "platform.rerun",
    "Sweep": "platform.front.pictures.notebook",
    "SweepComparison": "platform.front.compare",
    "SweepResult": "platform.sweep.run",
    "SweepSpec": "sweeps.spec",
    "TrialConfig": "sweeps.trial",
    "UsageError": "platform.errors",
    "claims": "platform.front.claims",
    "compare": "platform.front.compare",
    "evaluate": "platform.evaluation.recall_suite",
    "front": "platform.front.pictures.notebook",
    "pick": "platform.front.pick",
    "rerun": "platform.rerun",
    "run_sweep": "platform.sweep.run",
    "sweep": "platform.front.pictures.notebook",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"recallfront.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `front`, `rerun` and `sweep` the functions when the submodules of the same names are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
