"""What the Triton kernels of the product with a gate cover."""

from torch import Tensor

from recallfront.kernels.linear_scan.coverage import TYPES

COVERED = "float32, bfloat16, float16"


def obstacle(x: Tensor) -> str | None:
    """Why no kernel covers inputs like `x`, or None."""
    if x.ndim == 0:
        return "the inputs are single numbers; the kernel has rows"
    return None if x.dtype in TYPES else f"the inputs are {x.dtype}; the kernel has {COVERED}"
