"""Public form of the generalized delta rule."""

from torch import Tensor

from recallfront.kernels.common.backend import Backend, use_reference
from recallfront.kernels.common.checks import check_recurrence, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.generalized_delta_rule.pytorch import generalized_delta_rule_pytorch
from recallfront.kernels.generalized_delta_rule.reference import generalized_delta_rule_reference
from recallfront.kernels.gpu import flash_linear


@outside_autocast
def generalized_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = (diag(e^{g_t}) + b_t a_t^T) S_{t-1} + k_t v_t^T, o_t = scale * q_t^T S_t (arXiv:2503.14456 sec. 3).

    RWKV-7 has a = -kappa, of unit length, and b = eta kappa with eta in (0, 1), its in-context learning rate; larger
    changes let the state grow without bound. q, k, a, b (B, T, H, K), v (B, T, H, V); log_decay (B, T, H, K), at most
    0 (minus infinity forgets all); scale: 1 / sqrt(K) by default; initial_state (B, H, K, V), zeros by default.
    Accumulates in float32 at least. Returns o (B, T, H, V) in the type of v, and the last state, float32 at least. On
    a GPU, flash-linear-attention's kernels do it in half precision if they are installed. Raises ValueError if shapes
    or types do not fit together.
    """
    name = "generalized_delta_rule"
    state = check_recurrence(name, q, k, v, initial_state)
    for label, tensor in (("a", a), ("b", b), ("log_decay", log_decay)):
        check_shape(name, label, tensor, tuple(q.shape))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if flash_linear.covers(q, backend):
        return flash_linear.generalized_delta(q, k, v, a, b, log_decay, scale, state)
    run = generalized_delta_rule_reference if use_reference(name, backend) else generalized_delta_rule_pytorch
    wide = [x.to(state.dtype) for x in (q, k, v, a, b, log_decay)]
    o, last = run(wide[0], wide[1], wide[2], wide[3], wide[4], wide[5], scale, state)
    return o.to(v.dtype), last


@outside_autocast
def generalized_delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One token: q, k, a, b, log_decay (B, H, K), v (B, H, V), state (B, H, K, V), updated in place.

    Returns o (B, H, V) in the type of v, and the state.
    """
    scale, dtype = (q.shape[2] ** -0.5 if scale is None else scale), state.dtype
    read = a.to(dtype)[:, :, None] @ state
    state.mul_(log_decay.to(dtype).exp()[..., None])
    state.addcmul_(b.to(dtype)[..., None], read).addcmul_(k.to(dtype)[..., None], v.to(dtype)[:, :, None])
    o = (q.to(dtype)[:, :, None] @ state)[:, :, 0] * scale
    return o.to(v.dtype), state
