"""Reading the golden arrays, and how closely an implementation agrees with them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden"
VALUES, GRADIENTS = 2e-5, 1e-4  # relative tolerances in float32 (golden/README.md)


def load_golden(name: str) -> dict[str, Tensor]:
    """The numeric arrays of one file as tensors."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind != "U"}


def load_text(name: str, key: str) -> str:
    """A printed value of one file."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return str(arrays[key])


def difference(found: Tensor | None, expected: Tensor) -> float:
    """Relative distance, as the golden README defines it."""
    assert found is not None
    assert found.shape == expected.shape
    return float((found.detach() - expected).norm() / expected.norm())
