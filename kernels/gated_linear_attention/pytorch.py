"""Gated linear attention in chunks: products inside a chunk, one scan over the chunks' states."""

import torch
from torch import Tensor

from recallfront.kernels.common.backend import captured
from recallfront.kernels.common.chunks import from_chunks, into_chunks
from recallfront.kernels.common.decayed_products import bounded, decayed_products
from recallfront.kernels.linear_scan.operator import linear_scan

_HEAD_CHUNK = 64  # one decay a head: the decay of a pair is one number
_VECTOR_CHUNK = 32  # one a key dimension: a power of two, made by joining halves
_FACTOR_LIMIT = -60.0  # smallest log decay over a chunk whose inverse is still formed


def gated_linear_attention_pytorch(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """As `gated_linear_attention_reference`, exact however strong the decay."""
    time = q.shape[1]
    by_head = log_decay.shape[3] == 1
    # the mildest decays that a chunk can add up to without leaving the range of float32
    mild = not by_head and not captured(q) and _least(log_decay) * min(_HEAD_CHUNK, time) > _FACTOR_LIMIT
    factored = by_head or mild
    chunk = min(_HEAD_CHUNK, time) if factored else min(_VECTOR_CHUNK, 1 << (time - 1).bit_length())
    q, k, v, g = (into_chunks(x, chunk) for x in (q * scale, k, v, log_decay))
    if by_head:
        g = bounded(g)
        decay = pair_decay(g[..., 0])
        since, left = g.cumsum(3), decay[..., -1, :, None]
        weights = (q @ k.transpose(-1, -2)) * decay
    elif mild:  # e^(G_i - G_j) as the product of e^(G_i) and e^(-G_j)
        since = g.cumsum(3)
        left = (since[:, :, :, -1:] - since).exp()
        weights = ((q * since.exp()) @ (k * (-since).exp()).transpose(-1, -2)).tril()
    else:
        products, since, until = decayed_products(q[..., None, :], k[..., None, :], g)
        weights, left = products[..., 0, :, 0], until.exp()
    sums = (k * left).transpose(-1, -2) @ v
    before, last = scan_chunks(since[:, :, :, -1].exp(), sums, state)
    out = weights @ v + (q * since.exp()) @ before
    return from_chunks(out, time), last


def _least(log_decay: Tensor) -> float:
    return float(log_decay.detach().min())


def pair_decay(log_decay: Tensor) -> Tensor:
    """exp(sum_{j < t <= i} g_t) for j <= i and 0 elsewhere (..., C, C), of log decays g (..., C).

    Each pair's own decays are added: a difference of sums would take the digits of what a strong decay before both of
    them adds to either.
    """
    size = log_decay.shape[-1]
    own = log_decay[..., :, None].expand(*log_decay.shape, size).tril(-1)
    future = torch.ones(size, size, dtype=torch.bool, device=log_decay.device).triu(1)
    # masked before exp, which keeps its result for backward: one matrix, not two
    return own.cumsum(-2).masked_fill(future, float("-inf")).exp()


def scan_chunks(decay: Tensor, sums: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """States before each chunk (B, H, N, K, V) and after the last (B, H, K, V).

    decay (B, H, N, K or 1) over a whole chunk; sums (B, H, N, K, V): what each chunk adds.
    """
    batch, heads, count, keys, values = sums.shape
    if count == 1:
        return state[:, :, None], decay[:, :, 0, :, None] * state + sums[:, :, 0]
    rows = batch * heads
    a = decay[..., None].expand_as(sums).reshape(rows, count, keys * values)
    after, last = linear_scan(
        a, sums.reshape(rows, count, keys * values), initial_state=state.reshape(rows, keys * values)
    )
    after = after.view(batch, heads, count, keys, values)
    return torch.cat([state[:, :, None], after[:, :, :-1]], dim=2), last.view_as(state)
