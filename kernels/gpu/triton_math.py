"""Functions that kernels share, in float32."""

import triton
import triton.language as tl


@triton.jit
def logistic(x, PRECISE: tl.constexpr):
    """1 / (1 + exp(-x)). Not precise (a few units in the last place, which inputs of 16 bits cannot tell) it takes
    a third of the instructions.
    """
    if PRECISE:
        return tl.sigmoid(x)
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root
