"""What `backend="auto"` takes on this machine, and why, in words."""

from importlib import import_module
from pathlib import Path

import torch

from recallfront.kernels.backend import kernels_missing


def operators() -> list[str]:
    """Names of all operators."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/operator.py"))


def covered(operator: str) -> str | None:
    """What the operator's kernels cover, or None where it has none."""
    if not (Path(__file__).parent / operator / "triton.py").exists():
        return None
    text: str = import_module(f"recallfront.kernels.{operator}.coverage").COVERED
    return text


def explain() -> str:
    """Which form runs here and why; which operators have kernels, and for what."""
    if torch.cuda.is_available():
        missing = kernels_missing(torch.device("cuda", 0))
        where = f"on {torch.cuda.get_device_name(0)}"
    else:
        missing, where = "PyTorch sees no GPU", ""
    chosen = f"Triton kernels {where}" if missing is None else f"the PyTorch forms: {missing}"
    have = {name: covered(name) for name in operators()}
    kernels = "; ".join(f"{name} ({text})" for name, text in have.items() if text)
    without = ", ".join(name for name, text in have.items() if not text)
    return (
        f"backend='auto' takes {chosen}. Triton kernels, on a GPU: {kernels}. "
        f"The PyTorch forms: whatever these do not cover, and {without}"
    )
