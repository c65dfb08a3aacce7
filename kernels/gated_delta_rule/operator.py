"""Public form of the gated delta rule."""

import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend, use_reference
from recallfront.kernels.common.checks import check_recurrence, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.gated_delta_rule.pytorch import gated_delta_rule_pytorch
from recallfront.kernels.gated_delta_rule.reference import gated_delta_rule_reference
from recallfront.kernels.gpu import flash_linear


@outside_autocast
def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = e^g S_{t-1} + beta k (v - k^T e^g S_{t-1})^T, o_t = scale * q_t^T S_t (arXiv:2412.06464 eq. 10).

    q, k (B, T, H, K), k of unit length (the rule is unstable beyond it), v (B, T, H, V); beta (B, T, H) in
    [0, 1]; log_decay (B, T, H), or (B, T, H, K) for a decay a key dimension (arXiv:2510.26692 eq. 1), at most 0
    (minus infinity forgets all), none by default (DeltaNet); scale: 1 / sqrt(K) by default; initial_state (B, H, K,
    V), zeros by default. Accumulates in float32 at least. Returns o (B, T, H, V) in the type of v, and the last
    state, float32 at least. On a GPU, flash-linear-attention's kernels do it in half precision if they are installed.
    Raises ValueError if shapes or types do not fit together.
    """
    name = "gated_delta_rule"
    state = check_recurrence(name, q, k, v, initial_state)
    check_shape(name, "beta", beta, tuple(q.shape[:3]))
    if log_decay is not None:
        check_shape(name, "log_decay", log_decay, tuple(q.shape[: 4 if log_decay.ndim == 4 else 3]))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if flash_linear.covers(q, backend):
        return flash_linear.gated_delta(q, k, v, beta, log_decay, scale, state)
    run = gated_delta_rule_reference if use_reference(name, backend) else gated_delta_rule_pytorch
    log_decay = torch.zeros_like(beta) if log_decay is None else log_decay
    log_decay = log_decay[..., None] if log_decay.ndim == 3 else log_decay
    wide = [x.to(state.dtype) for x in (q, k, v, beta, log_decay)]
    o, last = run(wide[0], wide[1], wide[2], wide[3], wide[4], scale, state)
    return o.to(v.dtype), last


@outside_autocast
def gated_delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One token: q, k (B, H, K), v (B, H, V), beta (B, H), log_decay (B, H) or (B, H, K), state (B, H, K, V), updated
    in place.

    Returns o (B, H, V) in the type of v, and the state.
    """
    scale, dtype = (q.shape[2] ** -0.5 if scale is None else scale), state.dtype
    if log_decay is not None:
        decay = log_decay.to(dtype).exp()
        state.mul_(decay[..., None] if decay.ndim == 3 else decay[..., None, None])
    k, error = k.to(dtype), v.to(dtype) - (k.to(dtype)[:, :, None] @ state)[:, :, 0]
    state.addcmul_(k[..., None], (beta.to(dtype)[..., None] * error)[:, :, None])
    o = (q.to(dtype)[:, :, None] @ state)[:, :, 0] * scale
    return o.to(v.dtype), state
