"""Public form of Taylor attention.

The kernels are imported where they are first used, since not every machine has Triton.
"""

import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend, choose
from recallfront.kernels.common.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.taylor_attention.coverage import obstacle, state_obstacle
from recallfront.kernels.taylor_attention.pytorch import (
    taylor_attention_extend_pytorch,
    taylor_attention_pytorch,
    taylor_features,
)
from recallfront.kernels.taylor_attention.reference import taylor_attention_reference

__all__ = ["taylor_attention", "taylor_attention_extend", "taylor_attention_step", "taylor_features"]


@outside_autocast
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
    if shapes or types do not fit together, or no kernel covers them and backend is "triton".
    """
    _check("taylor_attention", q, k, v)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    form = choose("taylor_attention", backend, q, k, v, obstacle=lambda: obstacle(q, v))
    if form == "triton":
        from recallfront.kernels.taylor_attention.triton import attend

        o: Tensor = attend(q, k, v, scale, eps)[0]
        return o
    run = taylor_attention_reference if form == "reference" else taylor_attention_pytorch
    dtype = accumulation_dtype(v.dtype)
    return run(q.to(dtype), k.to(dtype), v.to(dtype), scale, eps).to(v.dtype)


@outside_autocast
def taylor_attention_extend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    scale: float,
    eps: float,
    padding: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """`taylor_attention` of a text that continues: q, k (B, T, H, F), v (B, T, H, V).

    state (B, H, features, V + 1): sums of phi(k) v^T, and of phi(k) in the last column; padding (B, T) bool:
    tokens that leave it as it is. Returns o (B, T, H, V) in the type of v, and the new state. Raises ValueError
    as `taylor_attention` does.
    """
    _check("taylor_attention_extend", q, k, v)
    _check_state("taylor_attention_extend", q, v, state, q.shape[2])
    if padding is not None:
        check_shape("taylor_attention_extend", "padding", padding, tuple(q.shape[:2]))
        if padding.dtype != torch.bool:
            raise ValueError(f"taylor_attention_extend: padding is {padding.dtype}; it must be torch.bool")
    form = choose(
        "taylor_attention_extend", backend, q, k, v, state, padding,
        obstacle=lambda: state_obstacle(q, k, v, state, scale),
    )  # fmt: skip
    if form == "triton":
        from recallfront.kernels.taylor_attention.triton import extend

        o, state = extend(q, k, v, state, padding, scale, eps)
        return o, state
    dtype = accumulation_dtype(v.dtype)
    o, state = taylor_attention_extend_pytorch(
        q.to(dtype), k.to(dtype), v.to(dtype), state, scale, eps, padding
    )
    return o.to(v.dtype), state


@outside_autocast
def taylor_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    scale: float | None = None,
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """One token of `taylor_attention`: q, k (B, H, F), v (B, H, V).

    state (B, H, features, V + 1): sums of phi(k) v^T, and of phi(k) in the last column; updated in place.
    Returns o (B, H, V) and the state. Raises ValueError as `taylor_attention` does.
    """
    check_shape("taylor_attention_step", "q", q, (None, None, None))
    check_shape("taylor_attention_step", "k", k, tuple(q.shape))
    check_shape("taylor_attention_step", "v", v, (*q.shape[:2], None))
    _check_state("taylor_attention_step", q, v, state, q.shape[1])
    scale = q.shape[2] ** -0.5 if scale is None else scale

    def hindrance() -> str | None:
        if state.stride()[2:] != (state.shape[3], 1):
            return "the rows of a state do not lie together; the kernel updates it in place"
        return state_obstacle(q, k, v, state, scale)

    if choose("taylor_attention_step", backend, q, k, v, state, obstacle=hindrance) == "triton":
        from recallfront.kernels.taylor_attention.triton import step

        return step(q, k, v, state, scale, eps), state
    q_features = taylor_features(q.to(state.dtype), scale)
    k_features = taylor_features(k.to(state.dtype), scale)
    state[..., :-1].addcmul_(k_features[..., None], v[:, :, None].to(state.dtype))
    state[..., -1].add_(k_features)
    summed = (q_features[:, :, None] @ state)[:, :, 0]
    return (summed[..., :-1] / (summed[..., -1:] + eps)).to(v.dtype), state


def _check(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    check_shape(name, "q", q, (None, None, None, None))
    check_shape(name, "k", k, tuple(q.shape))
    check_shape(name, "v", v, (*q.shape[:3], None))
    check_same_dtype(name, q=q, k=k, v=v)
    if min(q.shape) == 0:
        raise ValueError(f"{name}: q has shape {tuple(q.shape)}; no size may be 0")


def _check_state(name: str, q: Tensor, v: Tensor, state: Tensor, heads: int) -> None:
    features = q.shape[-1]
    features = 1 + features + features * (features + 1) // 2
    check_shape(name, "state", state, (q.shape[0], heads, features, v.shape[-1] + 1))
