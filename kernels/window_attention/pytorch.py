"""Window attention through PyTorch's fused attention, in bands where the window is short."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_BLOCK = 64  # shorter blocks of queries cost more in launches than they save in masked products


@lru_cache(maxsize=64)
def _bias(
    time: int,
    keys: int,
    window_size: int | None,
    slopes: tuple[float, ...] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Additive bias (1 or H, T, S): -slope * distance where the key is visible, -inf elsewhere."""
    ages = torch.arange(keys - time, keys)[:, None] - torch.arange(keys)
    visible = (ages >= 0) & (ages < (window_size or keys))
    bias = torch.zeros(1, time, keys)
    if slopes is not None:
        bias = -torch.tensor(slopes, dtype=torch.float64)[:, None, None] * ages
    return bias.masked_fill(~visible, float("-inf")).to(dtype).to(device)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Fused attention of q (B, H, T, D) on k, v (B, H_kv, S, D); causal where there is no bias."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=bias is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def window_attention_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | None,
    alibi_slopes: tuple[float, ...] | None,
    scale: float,
    segments: Tensor | None,
) -> Tensor:
    """As `window_attention_reference`; the slopes as plain numbers, so that biases are made once and kept."""
    time, keys = q.shape[1], k.shape[1]
    if window_size is not None and window_size >= keys:
        window_size = None
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if segments is not None:
        return _attend_segments(q, k, v, window_size, alibi_slopes, scale, segments).transpose(1, 2)
    if window_size is not None and time >= 2 * max(window_size, _MIN_BLOCK):
        return _attend_banded(q, k, v, window_size, alibi_slopes, scale).transpose(1, 2)
    bias = None
    if window_size is not None or alibi_slopes is not None or time != keys:
        bias = _bias(time, keys, window_size, alibi_slopes, q.dtype, q.device)[None]
    return _attend(q, k, v, bias, scale).transpose(1, 2)


def _attend_segments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | None,
    slopes: tuple[float, ...] | None,
    scale: float,
    segments: Tensor,
) -> Tensor:
    """Packed documents: the mask is the batch's own."""
    time, keys = q.shape[2], k.shape[2]
    bias = _bias(time, keys, window_size, slopes, q.dtype, q.device)[None]
    same = segments[:, None, keys - time :, None] == segments[:, None, None, :]
    return _attend(q, k, v, bias.masked_fill(~same, float("-inf")), scale)


def _attend_banded(
    q: Tensor, k: Tensor, v: Tensor, window_size: int, slopes: tuple[float, ...] | None, scale: float
) -> Tensor:
    """Blocks of queries, each with the keys its window reaches: work grows with T * window, not T * T."""
    batch, heads, time, width = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    block = max(window_size, _MIN_BLOCK)
    count = -(-time // block)
    reach = window_size - 1
    # so many keys stand before the first query; cut them to what the window reaches, or pad up to it
    before, after = reach - (keys - time), count * block - time
    q = F.pad(q, (0, 0, 0, after)).view(batch, heads, count, block, width)
    k = F.pad(k, (0, 0, before, after)).unfold(2, block + reach, block)  # (B, H_kv, N, D, block + reach)
    v = F.pad(v, (0, 0, before, after)).unfold(2, block + reach, block)
    bias = _bias(block, block + reach, window_size, slopes, q.dtype, q.device)
    bias = bias.expand(heads, -1, -1)
    # the padding in front of the first block must not be seen
    first = bias.clone()
    first[:, :, : max(before, 0)] = float("-inf")
    mask = torch.cat([first[None], bias.expand(count - 1, -1, -1, -1)]).repeat(batch, 1, 1, 1)
    out = _attend(
        q.transpose(1, 2).reshape(batch * count, heads, block, width),
        k.permute(0, 2, 1, 4, 3).reshape(batch * count, kv_heads, block + reach, width),
        v.permute(0, 2, 1, 4, 3).reshape(batch * count, kv_heads, block + reach, width),
        mask,
        scale,
    )
    out = out.view(batch, count, heads, block, width).transpose(1, 2)
    return out.reshape(batch, heads, count * block, width)[:, :, :time]
