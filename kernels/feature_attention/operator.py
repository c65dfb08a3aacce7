"""Linear attention with any feature map, applied by the caller: o = phi(q)^T S / (phi(q)^T z + eps)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from recallfront.kernels.common.backend import Backend, use_reference
from recallfront.kernels.common.checks import check_recurrence, check_shape
from recallfront.kernels.common.chunks import from_chunks, into_chunks
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.feature_attention.reference import feature_attention_reference

_CHUNK = 64


@outside_autocast
def feature_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    eps: float = 1e-6,
    initial_state: Tensor | None = None,
    padding: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """o_t = sum_{j <= t} (q_t . k_j) v_j / (sum_{j <= t} q_t . k_j + eps) (arXiv:2006.16236 eq. 12).

    q, k (B, T, H, F): features, as a rule not negative; v (B, T, H, V); initial_state (B, H, F, V + 1), its
    last column the sum of the keys, zeros by default; padding (B, T): tokens that leave the state as it is.
    Accumulates in float32 at least. Returns o (B, T, H, V) in the type of v, and the last state. Raises
    ValueError if shapes or types do not fit together.
    """
    name = "feature_attention"
    state = check_recurrence(name, q, k, v, initial_state, extra=1)
    q, k, wide = q.to(state.dtype), k.to(state.dtype), v.to(state.dtype)
    if padding is not None:
        check_shape(name, "padding", padding, tuple(q.shape[:2]))
    if use_reference(name, backend):
        if padding is not None:
            k = k.masked_fill(padding[..., None, None], 0)
        o, state = feature_attention_reference(q, k, wide, eps, state)
        return o.to(v.dtype), state
    extended = F.pad(wide, (0, 1), value=1.0)
    if padding is not None:
        extended = extended.masked_fill(padding[..., None, None], 0)
    time = q.shape[1]
    chunk = min(_CHUNK, time)
    q, k, extended = (into_chunks(x, chunk) for x in (q, k, extended))
    within = (q @ k.transpose(-1, -2)).tril() @ extended
    sums = k.transpose(-1, -2) @ extended
    before = torch.cat([state[:, :, None], sums], dim=2).cumsum(2)
    summed = within + q @ before[:, :, :-1]
    o = from_chunks(summed[..., :-1] / (summed[..., -1:] + eps), time)
    return o.to(v.dtype), before[:, :, -1]


@outside_autocast
def feature_attention_step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """One token: features q, k (B, H, F), v (B, H, V), state (B, H, F, V + 1), updated in place.

    Returns o (B, H, V) in the type of v, and the state.
    """
    q, k = q.to(state.dtype), k.to(state.dtype)
    state[..., :-1].addcmul_(k[..., None], v[:, :, None].to(state.dtype))
    state[..., -1].add_(k)
    summed = (q[:, :, None] @ state)[:, :, 0]
    return (summed[..., :-1] / (summed[..., -1:] + eps)).to(v.dtype), state
