"""Which calls of grouped attention the Triton kernels cover. Needs no Triton."""

import torch
from torch import Tensor

from recallfront.kernels.common.backend import wants_gradient
from recallfront.kernels.grouped_attention.plan import FURTHEST, WIDEST, WIDEST_BACKWARD, WIDEST_FLOAT32

TYPES = (torch.float32, torch.bfloat16, torch.float16)
COVERED = (
    f"float32, bfloat16, float16; heads to {WIDEST}, to {WIDEST_BACKWARD} in training and in float32 "
    f"(a step: any type), at most {FURTHEST + 1} taps (a step and a draft tree: any)"
)


def obstacle(q: Tensor, k: Tensor, v: Tensor, conv_taps: Tensor | None, scale: Tensor | None) -> str | None:
    """Why no kernel covers a call with these arguments, or None where one does."""
    if conv_taps is not None and not 1 <= conv_taps.shape[1] <= FURTHEST + 1:
        return f"conv_taps has {conv_taps.shape[1]} taps a head; the kernels have 1 to {FURTHEST + 1}"
    if q.shape[-1] > WIDEST_BACKWARD and wants_gradient(q, k, v, conv_taps, scale):
        return f"the head size is {q.shape[-1]}; the kernels of the gradient have 1 to {WIDEST_BACKWARD}"
    return _inputs(q, WIDEST_FLOAT32)


def step_obstacle(q: Tensor, *others: Tensor | None, states: tuple[Tensor | None, ...]) -> str | None:
    """Why no kernel covers a step that continues from `states`, or None. `others` may ask for a gradient."""
    return _inputs(q, WIDEST) or _states(q, *others, states=states)


def tree_obstacle(q: Tensor, *others: Tensor | None, states: tuple[Tensor | None, ...]) -> str | None:
    """As `step_obstacle`, of a draft tree."""
    return _inputs(q, WIDEST_FLOAT32) or _states(q, *others, states=states)


def _inputs(q: Tensor, widest_float32: int) -> str | None:
    if q.dtype not in TYPES:
        return f"q is {q.dtype}; the kernels have float32, bfloat16 and float16"
    widest = widest_float32 if q.dtype == torch.float32 else WIDEST
    if q.shape[-1] > widest:
        return f"the head size is {q.shape[-1]}; the kernels have 1 to {widest} in {q.dtype}"
    return None


def _states(*inputs: Tensor | None, states: tuple[Tensor | None, ...]) -> str | None:
    for state in states:
        if state is not None and (state.dtype != torch.float32 or not state.is_contiguous()):
            return f"a state is {state.dtype} with strides {state.stride()}; the kernels have float32, contiguous"
    return wants_gradient(*inputs, *states)
