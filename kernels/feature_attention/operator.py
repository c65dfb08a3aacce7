"""Linear attention with any feature map, applied by the caller: o = phi(q)^T S / (phi(q)^T z + eps)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from recallfront.kernels.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.chunks import from_chunks, into_chunks

_CHUNK = 64


def feature_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    eps: float = 1e-6,
    initial_state: Tensor | None = None,
    padding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """o_t = sum_{j <= t} (q_t . k_j) v_j / (sum_{j <= t} q_t . k_j + eps) (arXiv:2006.16236 eq. 12).

    q, k (B, T, H, F): features, as a rule not negative; v (B, T, H, V); initial_state (B, H, F, V + 1), its
    last column the sum of the keys, zeros by default; padding (B, T): tokens that leave the state as it is.
    Accumulates in float32 at least. Returns o (B, T, H, V) in the type of v, and the last state. Raises
    ValueError where shapes or types do not fit together.
    """
    name = "feature_attention"
    check_shape(name, "q", q, (None, None, None, None))
    check_shape(name, "k", k, tuple(q.shape))
    check_shape(name, "v", v, (*q.shape[:3], None))
    check_same_dtype(name, q=q, k=k, v=v)
    dtype, time = accumulation_dtype(v.dtype), q.shape[1]
    extended = F.pad(v.to(dtype), (0, 1), value=1.0)
    if padding is not None:
        extended = extended.masked_fill(padding[..., None, None], 0)
    state = initial_state
    if state is None:
        state = extended.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3] + 1)
    check_shape(name, "initial_state", state, (q.shape[0], q.shape[2], q.shape[3], v.shape[3] + 1))
    chunk = min(_CHUNK, time)
    q, k, extended = (into_chunks(x.to(dtype), chunk) for x in (q, k, extended))
    within = (q @ k.transpose(-1, -2)).tril() @ extended
    sums = k.transpose(-1, -2) @ extended
    before = torch.cat([state[:, :, None].to(dtype), sums], dim=2).cumsum(2)
    summed = within + q @ before[:, :, :-1]
    o = from_chunks(summed[..., :-1] / (summed[..., -1:] + eps), time)
    return o.to(v.dtype), before[:, :, -1]


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
