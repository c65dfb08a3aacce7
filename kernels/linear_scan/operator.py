"""Public form of the linear scan.

The kernels are imported where they are first used, since not every machine has Triton.
"""

import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend, choose, wants_gradient
from recallfront.kernels.common.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.linear_scan.coverage import obstacle, step_obstacle
from recallfront.kernels.linear_scan.pytorch import linear_scan_pytorch
from recallfront.kernels.linear_scan.reference import linear_scan_reference


@outside_autocast
def linear_scan(
    a: Tensor,
    b: Tensor,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Diagonal linear recurrence h_t = a_t * h_{t-1} + b_t (arXiv:2402.19427 eq. 4).

    a, b (B, T, D); initial_state (B, D), zeros by default; reset (B, T) bool: a counts as 0 there, so that a
    packed document starts afresh. Accumulates in float32 at least. Returns h (B, T, D) in the type of b, and
    the last h (B, D), float32 at least. Raises ValueError if shapes or types do not fit together.
    """
    check_shape("linear_scan", "b", b, (None, None, None))
    check_shape("linear_scan", "a", a, tuple(b.shape))
    check_same_dtype("linear_scan", a=a, b=b)
    batch, time, width = b.shape
    if time == 0:
        raise ValueError("linear_scan: b has no time step; at least one is needed")
    if initial_state is not None:
        check_shape("linear_scan", "initial_state", initial_state, (batch, width))
    if reset is not None:
        check_shape("linear_scan", "reset", reset, (batch, time))
        if reset.dtype != torch.bool:
            raise ValueError(f"linear_scan: reset is {reset.dtype}; it must be torch.bool")
    dtype = accumulation_dtype(b.dtype)
    initial = None if initial_state is None else initial_state.to(dtype)
    form = choose("linear_scan", backend, a, b, initial_state, reset, obstacle=lambda: obstacle(b))
    if form == "triton":
        from recallfront.kernels.linear_scan.triton import scan

        h, last = scan(a, b, initial, reset)
        return h, last
    run = linear_scan_reference if form == "reference" else linear_scan_pytorch
    h, last = run(a.to(dtype), b.to(dtype), initial, reset)
    return h.to(b.dtype), last


@outside_autocast
def linear_scan_step(
    a: Tensor, b: Tensor, state: Tensor, *, in_place: bool = False, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """One token of `linear_scan`: a, b, state (B, D). Returns h (B, D) in the type of b, and the new state.

    in_place: the memory of `state` may hold the new one. Raises ValueError as `linear_scan` does.
    """
    check_shape("linear_scan_step", "b", b, (None, None))
    check_shape("linear_scan_step", "a", a, tuple(b.shape))
    check_shape("linear_scan_step", "state", state, tuple(b.shape))
    form = choose(
        "linear_scan_step", backend, a, b, state,
        obstacle=lambda: step_obstacle(b, state) or wants_gradient(a, b, state),
    )  # fmt: skip
    if form == "triton":
        from recallfront.kernels.linear_scan.triton import step

        state = state.to(torch.float32, copy=not in_place).contiguous()
        return step(a, b, state), state
    h = torch.addcmul(b.to(state.dtype), a.to(state.dtype), state)
    return h.to(b.dtype), h
