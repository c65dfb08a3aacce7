"""Taylor attention without its features where the text is short, in chunks with a state where it is long."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.chunks import from_chunks, into_chunks
from recallfront.kernels.taylor_attention.blocks import block_taylor_attention, suits

CHUNK = 128


def _pairs(features: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Indices i <= j of the products x_i x_j, and the factor of each: sqrt(1/2) where i = j, else 1."""
    i, j = torch.triu_indices(features, features, device=device)
    weight = torch.ones(len(i), dtype=dtype, device=device)
    return i, j, weight.masked_fill(i == j, math.sqrt(0.5))


_kept_pairs = lru_cache(maxsize=32)(_pairs)


def taylor_features(x: Tensor, scale: float) -> Tensor:
    """phi(x) (..., 1 + F + F (F + 1) / 2): phi(q) . phi(k) = 1 + s + s^2 / 2 with s = scale * q . k."""
    i, j, weight = (_pairs if torch.compiler.is_compiling() else _kept_pairs)(x.shape[-1], x.dtype, x.device)
    x = x * math.sqrt(scale)
    return torch.cat([torch.ones_like(x[..., :1]), x, x[..., i] * x[..., j] * weight], dim=-1)


def _weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Causal weights 1 + s + s^2 / 2 = ((s + 1)^2 + 1) / 2 of q, k (..., T, F)."""
    shifted = 1 + (q * scale) @ k.transpose(-1, -2)
    return (0.5 + 0.5 * shifted.square()).tril()


def _with_ones(v: Tensor) -> Tensor:
    """v with a last column of ones, so that the normaliser is summed along with the values."""
    return F.pad(v, (0, 1), value=1.0)


def taylor_attention_pytorch(q: Tensor, k: Tensor, v: Tensor, scale: float, eps: float) -> Tensor:
    """As `taylor_attention_reference`."""
    if q.shape[1] > 4 * CHUNK:
        features = 1 + q.shape[3] + q.shape[3] * (q.shape[3] + 1) // 2
        empty = v.new_zeros(q.shape[0], q.shape[2], features, v.shape[3] + 1)
        return taylor_attention_extend_pytorch(q, k, v, empty, scale, eps)[0]
    if suits(q):
        return block_taylor_attention(q, k, v, scale, eps)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    weights = _weights(q, k, scale)
    return (weights @ v / (weights.sum(-1, keepdim=True) + eps)).transpose(1, 2)


def taylor_attention_extend_pytorch(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, scale: float, eps: float, padding: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Continue from a state (B, H, features, V + 1), whose last column sums the features.

    padding (B, T): tokens that leave the state as it is. Returns o (B, T, H, V) and the new state.
    """
    time = q.shape[1]
    chunk = min(CHUNK, time)
    v = _with_ones(v)
    if padding is not None:
        v = v.masked_fill(padding[..., None, None], 0)
    # the last chunk is filled up with zeros: a zero row of v (its one, too) adds nothing to the state
    q, k, v = (into_chunks(x, chunk) for x in (q, k, v))
    within = _weights(q, k, scale) @ v
    sums = taylor_features(k, scale).transpose(-1, -2) @ v
    before = torch.cat([state[:, :, None].to(sums.dtype), sums], dim=2).cumsum(2)
    summed = within + taylor_features(q, scale) @ before[:, :, :-1]
    o = summed[..., :-1] / (summed[..., -1:] + eps)
    return from_chunks(o, time), before[:, :, -1].to(state.dtype)
