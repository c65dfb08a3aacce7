"""Which implementation of an operator runs."""

from typing import Literal

Backend = Literal["auto", "reference", "triton"]


def use_reference(operator: str, backend: Backend) -> bool:
    """Whether `backend` asks for the readable definition rather than the fast PyTorch form.

    Raises ValueError where `backend` is unknown or asks for a kernel that the operator lacks.
    """
    if backend == "triton":
        raise ValueError(f"{operator} has no Triton kernel yet; backend may be 'auto' or 'reference'")
    if backend not in ("auto", "reference"):
        raise ValueError(f"{operator}: backend is {backend!r}; it may be 'auto', 'reference' or 'triton'")
    return backend == "reference"
