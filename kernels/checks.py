"""Argument checks that the operators share: one sentence that names the argument and what is allowed."""

import torch
from torch import Tensor


def check_shape(operator: str, name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `tensor` has the expected shape (None: any size)."""
    shape = tuple(tensor.shape)
    fits = len(shape) == len(expected) and all(
        want is None or have == want for have, want in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{operator}: {name} has shape {shape}; it must be ({wanted})")


def check_same_dtype(operator: str, **tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are of one floating type."""
    types = {tensor.dtype for tensor in tensors.values()}
    if len(types) > 1 or not next(iter(types)).is_floating_point:
        found = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(f"{operator}: {found}; all must be of one floating type")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Sums and states are kept in float32 at least: bfloat16 loses what a long sum needs."""
    return torch.promote_types(dtype, torch.float32)
