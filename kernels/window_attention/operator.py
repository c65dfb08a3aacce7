"""Public form of window attention, and its one-token form over a ring of cached keys and values.

The kernels are imported where they are first used, since not every machine has Triton.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import Backend, choose
from recallfront.kernels.common.checks import check_same_dtype, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.window_attention.coverage import obstacle, step_obstacle
from recallfront.kernels.window_attention.pytorch import window_attention_pytorch
from recallfront.kernels.window_attention.reference import window_attention_reference


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """The fixed slopes of ALiBi (arXiv:2108.12409 sec. 3), for any number of heads.

    A power of two has the geometric sequence from 2^(-8/H); other counts take the sequence of the power
    below, then every second slope of the power above (the authors' published rule).
    """
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * head / power) for head in range(1, power + 1)]
    finer = [2.0 ** (-4.0 * head / power) for head in range(1, 2 * power + 1, 2)]
    return tuple((slopes + finer)[:num_heads])


@outside_autocast
def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window_size: int | None = None,
    alibi_slopes: Tensor | tuple[float, ...] | None = None,
    distance_bias: Tensor | None = None,
    scale: float | None = None,
    segments: Tensor | None = None,
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Causal softmax attention, optionally in a window and with linear biases (arXiv:2108.12409 sec. 3).

    q (B, T, H, D); k, v (B, S, H_kv, D) with S >= T: the queries are the last T tokens, so that a block of
    tokens can continue from cached keys. H_kv divides H (1 is multi-query attention). window_size: keys visible
    to a query, itself included; None is all. alibi_slopes (H): slope * (j - i) is added to the logits; or
    distance_bias (H, R), learned: its column i - j is added, the last one for all that is further. scale: 1 /
    sqrt(D) by default. segments (B, S): a query sees only the keys of its own segment (packed documents). dropout:
    share of the weights that are set to 0, drawn from PyTorch's generator; the others grow to 1 / (1 - dropout).
    Returns (B, T, H, D). Raises ValueError if shapes, types or sizes do not fit together.
    """
    scale, slopes = _check("window_attention", q, k, v, window_size, alibi_slopes, scale)
    if not 0 <= dropout < 1:
        raise ValueError(f"window_attention: dropout is {dropout}; it must be at least 0 and below 1")
    if segments is not None:
        check_shape("window_attention", "segments", segments, (q.shape[0], k.shape[1]))
    if distance_bias is not None:
        check_shape("window_attention", "distance_bias", distance_bias, (q.shape[2], None))
        if slopes is not None:
            raise ValueError("window_attention: alibi_slopes and distance_bias are both given; give one")
    plain = slopes is None and segments is None and (window_size is None or window_size >= k.shape[1])
    form = choose(
        "window_attention",
        backend,
        q,
        k,
        v,
        segments,
        distance_bias,
        obstacle=lambda: obstacle(q, v, distance_bias, scale, segments, dropout),
    )
    if form == "triton" and not (backend == "auto" and plain and q.shape[1] == k.shape[1]):
        from recallfront.kernels.window_attention import triton as kernels

        listed = None if slopes is None else list(slopes)
        mixed: Tensor = kernels.window_attention_op(q, k, v, segments, listed, window_size, scale)[0]
        return mixed
    # plain causal attention is what PyTorch's own fused kernels are for
    if form == "reference":
        as_tensor = None if slopes is None else torch.tensor(slopes, dtype=q.dtype, device=q.device)
        return window_attention_reference(
            q, k, v, window_size, as_tensor, distance_bias, scale, segments, dropout
        )
    return window_attention_pytorch(q, k, v, window_size, slopes, distance_bias, scale, segments, dropout)


def _check(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | None,
    slopes: Tensor | tuple[float, ...] | None,
    scale: float | None,
) -> tuple[float, tuple[float, ...] | None]:
    check_shape(name, "q", q, (None, None, None, None))
    check_shape(name, "k", k, (q.shape[0], None, None, q.shape[3]))
    check_shape(name, "v", v, tuple(k.shape[:3]) + (None,))
    check_same_dtype(name, q=q, k=k, v=v)
    heads, kv_heads = q.shape[2], k.shape[2]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"{name}: k has {kv_heads} heads and q {heads}; the former must divide the latter")
    if min(heads, q.shape[3], v.shape[3]) == 0:
        raise ValueError(
            f"{name}: q has shape {tuple(q.shape)} and v {tuple(v.shape)}; heads and head sizes must be at least 1"
        )
    if k.shape[1] < q.shape[1] or q.shape[1] == 0:
        raise ValueError(f"{name}: q has {q.shape[1]} tokens and k {k.shape[1]}; 1 <= q tokens <= k tokens")
    if window_size is not None and window_size < 1:
        raise ValueError(f"{name}: window_size is {window_size}; it must be at least 1, or None for all keys")
    if isinstance(slopes, Tensor):
        slopes = tuple(slopes.tolist())
    if slopes is not None and len(slopes) != heads:
        raise ValueError(f"{name}: {len(slopes)} alibi_slopes for {heads} heads; one a head is needed")
    return (1 / math.sqrt(q.shape[3]) if scale is None else scale), slopes


def ring_ages(lengths: Tensor, slots: int) -> Tensor:
    """How many tokens ago each slot of a ring was written (B, S), once the token at `lengths` (B) is in.

    Token p lies in slot p % S. A slot whose age exceeds `lengths` was never written.
    """
    return (lengths[:, None] - torch.arange(slots, device=lengths.device)) % slots


@lru_cache(maxsize=32)
def _slopes_tensor(slopes: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(slopes, dtype=dtype, device=device)[:, None, None]


def step_bias(
    lengths: Tensor,
    slots: int,
    dtype: torch.dtype,
    *,
    alibi_slopes: tuple[float, ...] | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor:
    """Bias (B, 1 or H, 1, S) over a ring of S slots for the token at `lengths` (B), -inf where nothing lies.

    alibi_slopes and distance_bias (H, R) as in `window_attention`.
    """
    ages = ring_ages(lengths, slots)
    bias = torch.zeros_like(ages, dtype=dtype)[:, None, None]
    if alibi_slopes is not None:
        bias = -_slopes_tensor(alibi_slopes, dtype, lengths.device) * ages[:, None, None]
    if distance_bias is not None:
        by_slot = distance_bias[:, ages.clamp(max=distance_bias.shape[1] - 1)]  # (H, B, S)
        bias = by_slot.transpose(0, 1)[:, :, None].to(dtype)
    return bias.masked_fill((ages > lengths[:, None])[:, None, None], float("-inf"))


@outside_autocast
def window_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    *,
    bias: Tensor | None = None,
    alibi_slopes: tuple[float, ...] | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """One token of `window_attention` over a ring of S slots, S the window size (or all that will ever be
    seen).

    q (B, H, D), k, v (B, H_kv, D) of the token at position `lengths` (B); keys, values (B, H_kv, S, D):
    updated in place, token p in slot p % S; bias: `step_bias(...)` where the caller has it already, else it
    follows from alibi_slopes (H). Returns (B, H, D). Raises ValueError if shapes or types do not fit
    together.
    """
    name = "window_attention_step"
    batch, heads, width = q.shape
    kv_heads, slots = keys.shape[1], keys.shape[2]
    check_shape(name, "k", k, (batch, kv_heads, width))
    check_shape(name, "v", v, (batch, kv_heads, values.shape[3]))
    check_shape(name, "keys", keys, (batch, kv_heads, None, width))
    check_shape(name, "values", values, (batch, kv_heads, slots, None))
    check_shape(name, "lengths", lengths, (batch,))
    check_same_dtype(name, q=q, k=k, v=v, keys=keys, values=values)
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"{name}: keys has {kv_heads} heads and q {heads}; the former must divide the latter"
        )
    if slots == 0:
        raise ValueError(f"{name}: keys has no slots; the new token needs one")
    if alibi_slopes is not None and len(alibi_slopes) != heads:
        raise ValueError(f"{name}: {len(alibi_slopes)} alibi_slopes for {heads} heads; one a head is needed")
    if scale is None:
        scale = 1 / math.sqrt(width)
    form = choose(
        name,
        backend,
        q,
        k,
        v,
        keys,
        values,
        lengths,
        bias,
        obstacle=lambda: step_obstacle(q, k, v, keys, values, bias),
    )
    if form == "triton":
        from recallfront.kernels.window_attention import triton as kernels

        listed = None if alibi_slopes is None or bias is not None else list(alibi_slopes)
        mixed: Tensor = kernels.window_attention_step_op(q, k, v, keys, values, lengths, bias, listed, scale)
        return mixed
    rows, slot = torch.arange(batch, device=q.device), lengths % slots
    keys[rows, :, slot] = k
    values[rows, :, slot] = v
    if bias is None:
        bias = step_bias(lengths, slots, q.dtype, alibi_slopes=alibi_slopes)
    # query heads that share a key head are that head's queries: no key is copied
    grouped = kv_heads, heads // kv_heads
    q = q.view(batch, *grouped, width)
    if bias.shape[1] == heads:
        bias = bias.view(batch, *grouped, slots)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias, scale=scale)
    return out.reshape(batch, heads, values.shape[3])


@outside_autocast
def attend_seen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    distance: Tensor,
    seen: Tensor,
    *,
    alibi_slopes: tuple[float, ...] | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor:
    """Attention where the caller says which keys are seen: seen (B, T, S), distance (T, S) for the biases.

    q (B, T, H, D), k, v (B, S, H_kv, D); alibi_slopes and distance_bias as in `window_attention`. Returns (B, T, H, D).
    """
    bias = torch.zeros(1, *distance.shape, dtype=q.dtype, device=q.device)
    if alibi_slopes is not None:
        bias = -_slopes_tensor(alibi_slopes, q.dtype, q.device) * distance
    if distance_bias is not None:
        bias = distance_bias[:, distance.clamp(0, distance_bias.shape[1] - 1)].to(q.dtype)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=bias.masked_fill(~seen[:, None], float("-inf")),
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)
