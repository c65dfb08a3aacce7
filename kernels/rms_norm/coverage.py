"""What the Triton kernels of root-mean-square normalisation cover."""

from torch import Tensor

from recallfront.kernels.linear_scan.coverage import TYPES

WIDEST = 8192  # a program holds a row
COVERED = f"float32, bfloat16, float16; rows of at most {WIDEST}"


def obstacle(x: Tensor) -> str | None:
    """Why no kernel covers rows like those of x (..., D), or None."""
    if x.dtype not in TYPES:
        return f"the inputs are {x.dtype}; the kernel has float32, bfloat16 and float16"
    if x.shape[-1] > WIDEST:
        return f"a row has {x.shape[-1]} channels; the kernel has at most {WIDEST}"
    return None
