"""Window attention through PyTorch's fused attention, in bands where the window is short."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import captured
from recallfront.kernels.window_attention.blocks import Slopes, block_attention, suits

_MIN_BAND = 64  # shorter blocks of queries cost more in launches than they save in masked products
_BLOCK = 512  # queries that are worked on at once where a bias is needed, so that it stays small
_KEPT = 1 << 22  # biases up to this many numbers are kept from call to call


@dataclass(frozen=True)
class Visibility:
    """Which keys a query sees, and what is added to their logits."""

    window_size: int | None
    slopes: Slopes | None
    distance_bias: Tensor | None  # (H, R), by distance; the last column stands for all that is further

    def bias(self, like: Tensor, time: int, keys: int) -> Tensor:
        """Bias (1 or H, T, S) of the last `time` of `keys` tokens, -inf where a key is not seen."""
        if self.distance_bias is not None:
            return _learned_bias(time, keys, self.window_size, self.distance_bias.to(like.dtype))
        arguments = (time, keys, self.window_size, self.slopes, like.dtype, like.device)
        heads = 1 if self.slopes is None else len(self.slopes)
        small = heads * time * keys <= _KEPT
        # made in a CUDA graph, a bias holds nothing until that runs
        keep = small and not torch.compiler.is_compiling() and not captured(like)
        return (_kept_bias if keep else _bias)(*arguments)


def _ages(time: int, keys: int, window_size: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Distance of each key from each query (T, S), and whether it is seen."""
    ages = torch.arange(keys - time, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return ages, (ages >= 0) & (ages < (window_size or keys))


def _bias(
    time: int,
    keys: int,
    window_size: int | None,
    slopes: Slopes | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """-slope * distance where the key is seen, -inf elsewhere: (1 or H, T, S)."""
    ages, visible = _ages(time, keys, window_size, device)
    bias = torch.zeros(1, time, keys, device=device, dtype=dtype)
    if slopes is not None:
        wide = torch.promote_types(dtype, torch.float32)
        # filled on the device: a copy there cannot be captured in a CUDA graph
        each = [torch.full((1, 1, 1), -slope, dtype=wide, device=device) for slope in slopes]
        bias = (torch.cat(each) * ages).to(dtype)
    return bias.masked_fill(~visible, float("-inf"))


@lru_cache(maxsize=16)
def _kept_bias(
    time: int,
    keys: int,
    window_size: int | None,
    slopes: Slopes | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    with torch.inference_mode(False):  # made in evaluation, it may be used in training
        return _bias(time, keys, window_size, slopes, dtype, device)


def _learned_bias(time: int, keys: int, window_size: int | None, by_distance: Tensor) -> Tensor:
    ages, visible = _ages(time, keys, window_size, by_distance.device)
    bias = by_distance[:, ages.clamp(0, by_distance.shape[1] - 1)]
    return bias.masked_fill(~visible, float("-inf"))


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, dropout: float) -> Tensor:
    """Fused attention of q (B, H, T, D) on k, v (B, H_kv, S, D); causal where there is no bias."""
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=bias,
        dropout_p=dropout,
        is_causal=bias is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def window_attention_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | None,
    slopes: Slopes | None,
    distance_bias: Tensor | None,
    scale: float,
    segments: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """As `window_attention_reference`; the slopes as plain numbers, so that biases can be kept."""
    time, keys = q.shape[1], k.shape[1]
    if window_size is not None and window_size >= keys:
        window_size = None
    if segments is None and distance_bias is None and time > 1 and suits(q, k):
        return block_attention(q, k, v, window_size, slopes, scale, dropout)
    visibility = Visibility(window_size, slopes, distance_bias)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    plain = slopes is None and distance_bias is None and segments is None
    if plain and window_size is None and time == keys:
        out = _attend(q, k, v, None, scale, dropout)
    elif segments is None and window_size is not None and time >= 2 * max(window_size, _MIN_BAND):
        out = _attend_banded(q, k, v, visibility, window_size, scale, dropout)
    else:
        out = _attend_blocks(q, k, v, visibility, scale, segments, dropout)
    return out.transpose(1, 2)


def _attend_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    scale: float,
    segments: Tensor | None,
    dropout: float,
) -> Tensor:
    """Blocks of queries, each with the keys up to its last query that the window of its first one reaches."""
    time, keys, window_size = q.shape[2], k.shape[2], visibility.window_size
    block, reach = time if time <= 2 * _BLOCK else _BLOCK, keys
    if window_size is not None:
        block = min(block, max(window_size, _MIN_BAND))
        reach = min(keys, block + window_size - 1)
    # distances count from the last query back: every block's bias is the right end of the same strip
    strip = visibility.bias(q, block, reach)[None]
    outputs = []
    for start in range(0, time, block):
        stop = min(start + block, time)
        seen = keys - time + stop
        first = max(0, seen - reach)
        bias = strip[:, :, block - (stop - start) :, reach - (seen - first) :]
        if segments is not None:
            queries = segments[:, None, keys - time + start : seen, None]
            bias = bias.masked_fill(queries != segments[:, None, None, first:seen], float("-inf"))
        read = k[:, :, first:seen], v[:, :, first:seen]
        outputs.append(_attend(q[:, :, start:stop], *read, bias, scale, dropout))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _attend_banded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    window_size: int,
    scale: float,
    dropout: float,
) -> Tensor:
    """Blocks of queries, each with the keys its window reaches: work grows with T * window, not T * T."""
    batch, heads, time, width = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    block = max(window_size, _MIN_BAND)
    count = -(-time // block)
    reach = window_size - 1
    # so many keys stand before the first query; cut them to what the window reaches, or pad up to it
    before, after = reach - (keys - time), count * block - time
    q = F.pad(q, (0, 0, 0, after)).view(batch, heads, count, block, width)
    k = F.pad(k, (0, 0, before, after)).unfold(2, block + reach, block)  # (B, H_kv, N, D, block + reach)
    v = F.pad(v, (0, 0, before, after)).unfold(2, block + reach, block)
    bias = visibility.bias(q, block, block + reach)
    bias = bias.expand(heads, -1, -1)
    # the padding in front of the first block must not be seen
    first = bias.clone()
    first[:, :, : max(before, 0)] = float("-inf")
    mask = torch.cat([first[None], bias.expand(count - 1, -1, -1, -1)]).repeat(batch, 1, 1, 1)
    out = _attend(
        q.transpose(1, 2).reshape(batch * count, heads, block, width),
        k.permute(0, 2, 1, 4, 3).reshape(batch * count, kv_heads, block + reach, width),
        v.permute(0, 2, 1, 4, 3).reshape(batch * count, kv_heads, block + reach, -1),
        mask,
        scale,
        dropout,
    )
    out = out.view(batch, count, heads, block, -1).transpose(1, 2)
    return out.reshape(batch, heads, count * block, -1)[:, :, :time]
