"""Which calls of window attention the Triton kernels cover. Needs no Triton."""

import torch
from torch import Tensor

from recallfront.kernels.common.backend import wants_gradient

TYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST = 256  # head size up to which the kernels' blocks fit a multiprocessor
COVERED = f"float32, bfloat16, float16; heads to {WIDEST}; no distance_bias"


def _head_obstacle(q: Tensor, width: int, value: int) -> str | None:
    if q.dtype not in TYPES:
        return f"q is {q.dtype}; the kernels have float32, bfloat16 and float16"
    if min(width, value) < 1 or max(width, value) > WIDEST:
        return f"the head sizes of k and v are {width} and {value}; the kernels have 1 to {WIDEST}"
    return None


def obstacle(
    q: Tensor,
    v: Tensor,
    distance_bias: Tensor | None,
    scale: float,
    segments: Tensor | None,
    dropout: float = 0.0,
) -> str | None:
    """Why no kernel covers a call with these arguments, or None where one does."""
    if dropout:
        return f"dropout is {dropout}; the kernels drop nothing"
    if distance_bias is not None:
        return "distance_bias is given; the kernels have alibi_slopes alone"
    if not scale > 0:
        return f"scale is {scale}; the kernels need a positive one"
    if segments is not None and (segments.is_floating_point() or segments.dtype == torch.bool):
        return f"segments is {segments.dtype}; the kernels need integers"
    return _head_obstacle(q, q.shape[3], v.shape[3])


def step_obstacle(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
) -> str | None:
    """Why no kernel covers a step, or None where one does."""
    if keys.stride(3) != 1 or values.stride(3) != 1:
        return "the numbers of a key do not lie side by side; keys and values must be contiguous in the last dimension"
    return wants_gradient(q, k, v, keys, values, bias) or _head_obstacle(q, q.shape[2], values.shape[3])
