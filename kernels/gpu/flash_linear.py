"""The kernels of flash-linear-attention, an optional extra, for the gated recurrences on a GPU.

`pip install recallfront[gpu]` brings them; nothing is imported before an operator runs on a GPU.
"""

from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.compiler import is_compiling

from recallfront.kernels.common.decayed_products import bounded

_WIDEST_KEY = 256  # of a head, in its kernels
_SHORTEST = 64  # tokens: below one chunk its launches cost more than they save


@lru_cache
def _installed() -> bool:
    return find_spec("fla") is not None


def covers(q: Tensor, backend: str) -> bool:
    """Whether flash-linear-attention runs for q (B, T, H, K): chosen by "auto" alone, on a GPU, in half precision.

    float32 stays with the PyTorch form: its kernels would round the products.
    """
    half = q.dtype in (torch.bfloat16, torch.float16)
    fits = q.shape[3] <= _WIDEST_KEY and q.shape[1] >= _SHORTEST
    return backend == "auto" and q.is_cuda and half and fits and not is_compiling() and _installed()


def gated_linear(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_linear_attention`: q, k (B, T, H, K), v (B, T, H, V), log_decay (B, T, H, 1 or K), state (B, H, K, V)."""
    keywords = {"scale": scale, "initial_state": state.float(), "output_final_state": True}
    if log_decay.shape[3] == 1:
        from fla.ops.simple_gla import chunk_simple_gla

        o, last = chunk_simple_gla(q, k, v, g=bounded(log_decay[..., 0].float()).contiguous(), **keywords)
    else:
        from fla.ops.gla import chunk_gla

        o, last = chunk_gla(q, k, v, g=bounded(log_decay.float()).contiguous(), **keywords)
    return o.to(v.dtype), last


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_delta_rule`: q, k (B, T, H, K), v (B, T, H, V), beta (B, T, H), log_decay (B, T, H) or (B, T, H, K),
    state (B, H, K, V).
    """
    keywords = {
        "beta": beta.to(q.dtype),
        "scale": scale,
        "initial_state": state.float(),
        "output_final_state": True,
    }
    if log_decay is None:
        from fla.ops.delta_rule import chunk_delta_rule

        o, last = chunk_delta_rule(q, k, v, **keywords)
    elif log_decay.ndim == 4:
        from fla.ops.kda import chunk_kda

        o, last = chunk_kda(q, k, v, g=bounded(log_decay.float()).contiguous(), **keywords)
    else:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        o, last = chunk_gated_delta_rule(q, k, v, g=bounded(log_decay.float()), **keywords)
    return o.to(v.dtype), last


def generalized_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    scale: float,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """`generalized_delta_rule`: q, k, a, b, log_decay (B, T, H, K), v (B, T, H, V), state (B, H, K, V)."""
    from fla.ops.generalized_delta_rule import chunk_dplr_delta_rule

    o, last = chunk_dplr_delta_rule(
        q,
        k,
        v,
        a=a.to(q.dtype),
        b=b.to(q.dtype),
        gk=bounded(log_decay.float()).contiguous(),
        scale=scale,
        initial_state=state.float(),
        output_final_state=True,
    )
    return o.to(v.dtype), last
