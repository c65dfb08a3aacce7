"""Public form of gated linear attention."""

from torch import Tensor

from recallfront.kernels.common.backend import Backend, use_reference
from recallfront.kernels.common.checks import check_recurrence, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.gated_linear_attention.pytorch import gated_linear_attention_pytorch
from recallfront.kernels.gated_linear_attention.reference import gated_linear_attention_reference
from recallfront.kernels.gpu import flash_linear


@outside_autocast
def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = e^{g_t} S_{t-1} + k_t v_t^T, o_t = scale * q_t^T S_t (arXiv:2312.06635 eq. 3; arXiv:2405.21060).

    q, k (B, T, H, K), v (B, T, H, V); log_decay (B, T, H), or (B, T, H, K) for a decay a key dimension, at
    most 0 (minus infinity forgets all); scale: 1 / sqrt(K) by default; initial_state (B, H, K, V), zeros by default.
    Accumulates in float32 at least. Returns o (B, T, H, V) in the type of v, and the last state, float32 at least. On
    a GPU, flash-linear-attention's kernels do it in half precision where they are installed. Raises ValueError
    if shapes or types do not fit together.
    """
    name = "gated_linear_attention"
    state = check_recurrence(name, q, k, v, initial_state)
    if log_decay.ndim == 3:
        log_decay = log_decay[..., None]
        check_shape(name, "log_decay", log_decay[..., 0], tuple(q.shape[:3]))
    else:
        check_shape(name, "log_decay", log_decay, tuple(q.shape))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if flash_linear.covers(q, backend):
        return flash_linear.gated_linear(q, k, v, log_decay, scale, state)
    reference = use_reference(name, backend)
    run = gated_linear_attention_reference if reference else gated_linear_attention_pytorch
    wide = [x.to(state.dtype) for x in (q, k, v, log_decay)]
    o, last = run(wide[0], wide[1], wide[2], wide[3], scale, state)
    return o.to(v.dtype), last


@outside_autocast
def gated_linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token: q, k (B, H, K), v (B, H, V), log_decay (B, H) or (B, H, K), state (B, H, K, V), updated in
    place.

    Returns o (B, H, V) in the type of v, and the state.
    """
    scale = q.shape[2] ** -0.5 if scale is None else scale
    decay = log_decay.to(state.dtype).exp()
    state.mul_(decay[..., None] if decay.ndim == 3 else decay[..., None, None])
    state.addcmul_(k.to(state.dtype)[..., None], v.to(state.dtype)[:, :, None])
    o = (q.to(state.dtype)[:, :, None] @ state)[:, :, 0] * scale
    return o.to(v.dtype), state
