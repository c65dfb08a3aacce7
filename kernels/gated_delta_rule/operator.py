"""Public form of the gated delta rule."""

import torch
from torch import Tensor

from recallfront.kernels.backend import Backend, use_reference
from recallfront.kernels.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.gated_delta_rule.pytorch import gated_delta_rule_pytorch
from recallfront.kernels.gated_delta_rule.reference import gated_delta_rule_reference


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
    [0, 1]; log_decay (B, T, H), at most 0, none by default (DeltaNet); scale: 1 / sqrt(K) by default;
    initial_state (B, H, K, V), zeros by default. Accumulates in float32 at least. Returns o (B, T, H, V) in
    the type of v, and the last state, float32 at least. Raises ValueError where shapes or types do not fit
    together.
    """
    name = "gated_delta_rule"
    check_shape(name, "q", q, (None, None, None, None))
    check_shape(name, "k", k, tuple(q.shape))
    check_shape(name, "v", v, (*q.shape[:3], None))
    check_shape(name, "beta", beta, tuple(q.shape[:3]))
    check_same_dtype(name, q=q, k=k, v=v)
    if log_decay is None:
        log_decay = torch.zeros_like(beta)
    check_shape(name, "log_decay", log_decay, tuple(q.shape[:3]))
    if min(q.shape) == 0:
        raise ValueError(f"{name}: q has shape {tuple(q.shape)}; no size may be 0")
    dtype = accumulation_dtype(v.dtype)
    state = initial_state
    if state is None:
        state = v.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=dtype)
    check_shape(name, "initial_state", state, (q.shape[0], q.shape[2], q.shape[3], v.shape[3]))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    run = gated_delta_rule_reference if use_reference(name, backend) else gated_delta_rule_pytorch
    wide = [x.to(dtype) for x in (q, k, v, beta, log_decay, state)]
    o, last = run(wide[0], wide[1], wide[2], wide[3], wide[4], scale, wide[5])
    return o.to(v.dtype), last


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
    """One token: q, k (B, H, K), v (B, H, V), beta, log_decay (B, H), state (B, H, K, V), updated in place.

    Returns o (B, H, V) in the type of v, and the state.
    """
    scale, dtype = (q.shape[2] ** -0.5 if scale is None else scale), state.dtype
    if log_decay is not None:
        state.mul_(log_decay.to(dtype).exp()[..., None, None])
    k, error = k.to(dtype), v.to(dtype) - (k.to(dtype)[:, :, None] @ state)[:, :, 0]
    state.addcmul_(k[..., None], (beta.to(dtype)[..., None] * error)[:, :, None])
    o = (q.to(dtype)[:, :, None] @ state)[:, :, 0] * scale
    return o.to(v.dtype), state
