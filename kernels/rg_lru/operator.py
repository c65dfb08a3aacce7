"""Public form of the real-gated linear recurrent unit.

The kernels are imported where they are first used, since not every machine has Triton.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from recallfront.kernels.common.backend import Backend, choose, wants_gradient
from recallfront.kernels.common.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.linear_scan.operator import linear_scan, linear_scan_step
from recallfront.kernels.rg_lru.composite import coefficients
from recallfront.kernels.rg_lru.coverage import obstacle, step_obstacle
from recallfront.kernels.rg_lru.pytorch import rg_lru_pytorch
from recallfront.kernels.rg_lru.reference import C, rg_lru_reference


@outside_autocast
def rg_lru(
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    p: Tensor,
    *,
    starts: Tensor | None = None,
    initial_state: Tensor | None = None,
    padding: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Real-gated linear recurrence h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t v_t (arXiv:2402.19427 eq. 1 to 4).

    v (B, T, D); the logits of the gates r and i are block-diagonal maps of v with weight (blocks, D / blocks,
    2 D / blocks), r's outputs before i's, and bias (blocks, 2 D / blocks); log a_t = -8 softplus(p) r_t,
    p (D). starts (B or 1, T) bool: nothing comes from before such a token, and it is not scaled. Without
    initial_state (B, D) every first token is a start. padding (B, T) bool: such a token leaves the state as
    it is. Sums in float32 at least. Returns h (B, T, D) in the type of v, and the last h (B, D), float32 at
    least. Raises ValueError if shapes or types do not fit together.
    """
    batch, time, width = _check("rg_lru", v, weight, bias, p, (None, None, None))
    if time == 0:
        raise ValueError("rg_lru: v has no time step; at least one is needed")
    if starts is not None:
        check_shape(
            "rg_lru", "starts", starts, (starts.shape[0] if starts.shape[:1] == (1,) else batch, time)
        )
    if initial_state is not None:
        check_shape("rg_lru", "initial_state", initial_state, (batch, width))
    if padding is not None:
        check_shape("rg_lru", "padding", padding, (batch, time))
    for name, flags in (("starts", starts), ("padding", padding)):
        if flags is not None and flags.dtype != torch.bool:
            raise ValueError(f"rg_lru: {name} is {flags.dtype}; it must be torch.bool")
    p = _bounded(p)
    given = (v, weight, bias, p, starts, initial_state, padding)
    form = choose("rg_lru", backend, *given, obstacle=lambda: obstacle(v))
    if form == "triton":
        return _fused(v, weight, bias, p, starts, initial_state, padding)
    if starts is None:
        starts = torch.zeros(1, time, dtype=torch.bool, device=v.device)
    if initial_state is None:
        starts = starts | (torch.arange(time, device=v.device) == 0)
    if form == "reference":
        return rg_lru_reference(v, weight, bias, p, starts, initial_state, padding)
    exact = v.dtype in (torch.float32, torch.float64)
    if v.device.type == "cpu" and exact and initial_state is None and padding is None and not is_compiling():
        h = rg_lru_pytorch(v, weight, bias, p, starts)
        return h, h[:, -1]
    a, b = coefficients(v, weight, bias, p, starts)
    if padding is not None:
        a, b = a.masked_fill(padding[..., None], 1), b.masked_fill(padding[..., None], 0)
    h, last = linear_scan(a, b, initial_state=initial_state, backend=backend)
    return h.to(v.dtype), last


@outside_autocast
def rg_lru_step(
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    p: Tensor,
    state: Tensor,
    *,
    starts: Tensor,
    rate: Tensor | None = None,
    in_place: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """One token of `rg_lru`: v (B, D), state (B, D), starts (B, 1) bool. Returns h (B, D) and the new state.

    rate (D): -8 softplus(p) in the type of the state, where it is known. in_place: the memory of `state` may
    hold the new one. Raises ValueError as `rg_lru` does.
    """
    batch, width = _check("rg_lru_step", v, weight, bias, p, (None, None))
    check_shape("rg_lru_step", "state", state, (batch, width))
    check_shape("rg_lru_step", "starts", starts, (batch, 1))
    if starts.dtype != torch.bool:
        raise ValueError(f"rg_lru_step: starts is {starts.dtype}; it must be torch.bool")
    if rate is not None:
        check_shape("rg_lru_step", "rate", rate, (width,))
    p = _bounded(p)
    given = (v, weight, bias, p, state, starts, rate)
    form = choose(
        "rg_lru_step", backend, *given, obstacle=lambda: step_obstacle(v, state) or wants_gradient(*given)
    )
    if form == "triton":
        from recallfront.kernels.rg_lru.triton import step

        state = state.to(torch.float32, copy=not in_place).contiguous()
        rate = -C * F.softplus(p.float()) if rate is None else rate.float().contiguous()
        return step(_logits(v, weight, bias), v, rate, starts, state), state
    if form == "reference":
        h, last = rg_lru_reference(v[:, None], weight, bias, p, starts, state)
        return h[:, 0], last
    a, b = coefficients(v[:, None], weight, bias, p, starts)
    h, state = linear_scan_step(a[:, 0], b[:, 0], state, backend=backend)
    return h.to(v.dtype), state


def _check(
    operator: str, v: Tensor, weight: Tensor, bias: Tensor, p: Tensor, shape: tuple[None, ...]
) -> torch.Size:
    check_shape(operator, "v", v, shape)
    check_shape(operator, "weight", weight, (None, None, None))
    blocks, size, _ = weight.shape
    if blocks * size != v.shape[-1]:
        raise ValueError(
            f"{operator}: weight has {blocks} blocks of {size}; together they must be {v.shape[-1]} wide, as v is"
        )
    check_shape(operator, "weight", weight, (blocks, size, 2 * size))
    check_shape(operator, "bias", bias, (blocks, 2 * size))
    check_shape(operator, "p", p, (v.shape[-1],))
    check_same_dtype(operator, v=v, weight=weight, bias=bias)
    return v.shape


def _bounded(p: Tensor) -> Tensor:
    """p in float32 at least, no larger than where a is 0 whatever r is: an infinite rate times an r of 0 is NaN."""
    return p.to(accumulation_dtype(p.dtype)).clamp(max=1e30)


def _logits(v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Both gates' logits (blocks, N, 2 D / blocks) for v (N, D), as the product leaves them."""
    by_block = v.reshape(v.shape[0], *weight.shape[:2]).transpose(0, 1)
    return torch.baddbmm(bias[:, None], by_block, weight)


def _fused(
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    p: Tensor,
    starts: Tensor | None,
    initial_state: Tensor | None,
    padding: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from recallfront.kernels.rg_lru.triton import PADDING, START, gated_scan

    marks = None
    if starts is not None:
        marks = starts.to(torch.uint8) * START
    if padding is not None:
        marks = padding.to(torch.uint8) * PADDING if marks is None else marks.masked_fill(padding, PADDING)
    rate = -C * F.softplus(p.float())
    initial = None if initial_state is None else initial_state.float()
    h, last = gated_scan(_logits(v.flatten(0, 1), weight, bias), v, rate, initial, marks)
    return h, last
