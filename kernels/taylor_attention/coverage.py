"""What the Triton kernels of Taylor attention cover."""

import torch
from torch import Tensor

FEATURES, VALUES = 32, 128  # the most that a tile on the chip has room for
TYPES = (torch.float32, torch.bfloat16, torch.float16)
COVERED = f"float32, bfloat16, float16; feature dimension to {FEATURES}, values to {VALUES}"


def obstacle(q: Tensor, v: Tensor) -> str | None:
    """Why no kernel covers q (..., F) and v (..., V), or None."""
    if q.dtype not in TYPES:
        return f"the inputs are {q.dtype}; the kernel has float32, bfloat16 and float16"
    if q.shape[-1] > FEATURES:
        return f"the feature dimension is {q.shape[-1]}; the kernel has at most {FEATURES}"
    if not 0 < v.shape[-1] <= VALUES:
        return f"the values have {v.shape[-1]} channels; the kernel has 1 to {VALUES}"
    return None


def state_obstacle(q: Tensor, k: Tensor, v: Tensor, state: Tensor, scale: float) -> str | None:
    """Why no kernel continues from `state` (B, H, features, V + 1), or None."""
    reason = obstacle(q, v)
    if reason is not None:
        return reason
    if state.dtype != torch.float32:
        return f"the state is {state.dtype}; the kernel has float32"
    if not 0 < scale < float("inf"):
        return f"scale is {scale}; with a state the kernel needs a positive one"
    if torch.is_grad_enabled() and any(given.requires_grad for given in (q, k, v, state)):
        return "a gradient is wanted; with a state the kernel has none"
    return None
