"""What the Triton kernel of the linear scan covers."""

import torch
from torch import Tensor

WIDEST = 2**22
COVERED = f"float32, bfloat16, float16; fewer than {WIDEST} channels"
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def obstacle(x: Tensor) -> str | None:
    """Why no kernel covers inputs like `x`, or None."""
    if x.dtype not in TYPES:
        return f"the inputs are {x.dtype}; the kernel has float32, bfloat16 and float16"
    if x.shape[-1] >= WIDEST:
        return f"a token has {x.shape[-1]} channels; the kernel has fewer than {WIDEST}"
    return None


def step_obstacle(x: Tensor, state: Tensor) -> str | None:
    """Why no kernel takes a token like `x` on from `state`, or None."""
    if state.dtype != torch.float32:
        return f"the state is {state.dtype}; the kernel has float32"
    return obstacle(x)
