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


def check_recurrence(
    operator: str, q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None, extra: int = 0
) -> Tensor:
    """The state to begin with (B, H, K, V + extra), zeros by default, for q, k (B, T, H, K) and v (B, T, H, V).

    Raises ValueError if shapes or types do not fit together or a size is 0.
    """
    check_shape(operator, "q", q, (None, None, None, None))
    check_shape(operator, "k", k, tuple(q.shape))
    check_shape(operator, "v", v, (*q.shape[:3], None))
    check_same_dtype(operator, q=q, k=k, v=v)
    for name, tensor in (("q", q), ("v", v)):
        if min(tensor.shape) == 0:
            raise ValueError(f"{operator}: {name} has shape {tuple(tensor.shape)}; no size may be 0")
    shape = (q.shape[0], q.shape[2], q.shape[3], v.shape[3] + extra)
    if initial_state is None:
        return v.new_zeros(shape, dtype=accumulation_dtype(v.dtype))
    check_shape(operator, "initial_state", initial_state, shape)
    return initial_state.to(accumulation_dtype(v.dtype))
