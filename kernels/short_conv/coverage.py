"""What the Triton kernel of the short convolution covers."""

import torch
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_TAPS = 8
COVERED = f"float32, bfloat16, float16; at most {MOST_TAPS} taps"


def obstacle(x: Tensor, taps: Tensor, *others: Tensor | None) -> str | None:
    """Why no kernel covers inputs x with these taps, and bias and state where they are given, or None."""
    if x.dtype not in TYPES:
        return f"the inputs are {x.dtype}; the kernel has float32, bfloat16 and float16"
    if taps.shape[1] > MOST_TAPS:
        return f"there are {taps.shape[1]} taps; the kernel has at most {MOST_TAPS}"
    types = {given.dtype for given in (taps, *others) if given is not None}
    if types - {x.dtype}:
        found = ", ".join(sorted(map(str, types | {x.dtype})))
        return f"the inputs are {found}; the kernel has one type for x, taps, bias and state"
    return None
