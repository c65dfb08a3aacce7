"""Definition of window attention."""

import torch
import torch.nn.functional as F
from torch import Tensor


def window_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | None,
    alibi_slopes: Tensor | None,
    distance_bias: Tensor | None,
    scale: float,
    segments: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax over the visible keys of scale * q_i . k_j + slope * (j - i) (arXiv:2108.12409 sec. 3).

    Key j is visible to query i where 0 <= i - j < window_size and both are of one segment. The queries are
    the last T of the S tokens that have keys: q (B, T, H, D), k and v (B, S, H_kv, D), segments (B, S). dropout: share
    of the weights that are set to 0.
    """
    time, keys = q.shape[1], k.shape[1]
    repeats = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeats, dim=2), v.repeat_interleave(repeats, dim=2)
    distance = torch.arange(keys - time, keys, device=q.device)[:, None] - torch.arange(keys, device=q.device)
    visible = (distance >= 0) & (distance < (window_size or keys))
    visible = visible.expand(q.shape[0], 1, time, keys)
    if segments is not None:
        visible = visible & (segments[:, None, keys - time :, None] == segments[:, None, None, :])
    logits = scale * torch.einsum("bihd,bjhd->bhij", q, k)
    if alibi_slopes is not None:
        logits = logits - alibi_slopes[:, None, None] * distance
    if distance_bias is not None:
        logits = logits + distance_bias[:, distance.clamp(0, distance_bias.shape[1] - 1)]
    weights = logits.masked_fill(~visible, float("-inf")).softmax(-1)
    weights = F.dropout(weights, dropout)
    return torch.einsum("bhij,bjhd->bihd", weights, v)
