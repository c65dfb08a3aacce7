"""What to explore: tasks, the sweep specification and ready studies.

What reads specifications is imported when it is first asked for: trials do without it, so it is not part of their code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recallfront.sweeps.base import SpecError
from recallfront.sweeps.trial import TrialConfig

if TYPE_CHECKING:
    from recallfront.sweeps.load import load_spec
    from recallfront.sweeps.spec import SweepSpec

_LAZY = {"load_spec": "recallfront.sweeps.load", "SweepSpec": "recallfront.sweeps.spec"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = ["SpecError", "SweepSpec", "TrialConfig", "load_spec"]
