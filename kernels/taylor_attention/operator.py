"""Public form of Taylor attention."""

from torch import Tensor

from recallfront.kernels.backend import Backend, use_reference
from recallfront.kernels.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.taylor_attention.pytorch import (
    taylor_attention_extend,
    taylor_attention_pytorch,
    taylor_features,
)
from recallfront.kernels.taylor_attention.reference import taylor_attention_reference

__all__ = ["taylor_attention", "taylor_attention_extend", "taylor_attention_step", "taylor_features"]


def taylor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> Tensor:
    """Causal linear attention with weights 1 + s + s^2 / 2, s = scale * q . k (arXiv:2402.18668 sec. 4.1).

    q, k (B, T, H, F), v (B, T, H, V); scale: 1 / sqrt(F) by default; eps is added to the normaliser, which is
    T / 2 at least. Accumulates in float32 at least. Returns (B, T, H, V) in the type of v. Raises ValueError
    where shapes or types do not fit together.
    """
    check_shape("taylor_attention", "q", q, (None, None, None, None))
    check_shape("taylor_attention", "k", k, tuple(q.shape))
    check_shape("taylor_attention", "v", v, (*q.shape[:3], None))
    check_same_dtype("taylor_attention", q=q, k=k, v=v)
    if min(q.shape) == 0:
        raise ValueError(f"taylor_attention: q has shape {tuple(q.shape)}; no size may be 0")
    run = (
        taylor_attention_reference if use_reference("taylor_attention", backend) else taylor_attention_pytorch
    )
    dtype = accumulation_dtype(v.dtype)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    return run(q.to(dtype), k.to(dtype), v.to(dtype), scale, eps).to(v.dtype)


def taylor_attention_step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, *, scale: float | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """One token of `taylor_attention`: q, k (B, H, F), v (B, H, V).

    state (B, H, features, V + 1): sums of phi(k) v^T, and of phi(k) in the last column; updated in place.
    Returns o (B, H, V) and the state.
    """
    scale = q.shape[2] ** -0.5 if scale is None else scale
    q_features = taylor_features(q.to(state.dtype), scale)
    k_features = taylor_features(k.to(state.dtype), scale)
    state[..., :-1].addcmul_(k_features[..., None], v[:, :, None].to(state.dtype))
    state[..., -1].add_(k_features)
    summed = (q_features[:, :, None] @ state)[:, :, 0]
    return (summed[..., :-1] / (summed[..., -1:] + eps)).to(v.dtype), state
