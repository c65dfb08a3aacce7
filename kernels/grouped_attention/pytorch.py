"""Grouped attention as matrix products over groups."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.chunks import from_chunks, into_chunks, normalised
from recallfront.kernels.grouped_attention.blocks import block_grouped_attention, suits


def grouped_attention_pytorch(
    q: Tensor, k: Tensor, v: Tensor, group_size: int, conv_taps: Tensor | None, cross_scale: Tensor | float
) -> Tensor:
    """As `grouped_attention_reference`."""
    if suits(q, group_size, conv_taps):
        return block_grouped_attention(normalised(q), normalised(k), v, group_size, conv_taps, cross_scale)
    batch, _, heads, width = q.shape
    state = q.new_zeros(batch, heads, width, width)
    out = grouped_mix(normalised(q), normalised(k), v, group_size, cross_scale, state)
    if conv_taps is not None:
        out = out + head_conv(F.pad(v, (0, 0, 0, 0, conv_taps.shape[1] - 1, 0)), conv_taps)
    return out


def grouped_mix(
    q: Tensor, k: Tensor, v: Tensor, group_size: int, cross_scale: Tensor | float, state: Tensor
) -> Tensor:
    """Local and cross part for unit q, k (B, T, H, D); `state` (B, H, D, D) sums the groups before."""
    time = q.shape[1]
    group_size = min(group_size, time)
    q, k, v = (into_chunks(x, group_size) for x in (q, k, v))
    out = (q @ k.transpose(-1, -2)).relu().square().tril() @ v
    sums = k[:, :, :-1].transpose(-1, -2) @ v[:, :, :-1]
    before = torch.cat([state[:, :, None], sums], dim=2).cumsum(2)
    return from_chunks(out + cross_scale * (q @ before), time)


def grouped_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    cross_scale: Tensor | float,
    tail: Tensor | None,
    conv_taps: Tensor | None,
) -> Tensor:
    """As `grouped_attention_step_reference`."""
    group_size = keys.shape[2]
    rows = torch.arange(q.shape[0], device=q.device)
    slot = lengths % group_size
    q = normalised(q)
    keys[rows, :, slot] = normalised(k)
    values[rows, :, slot] = v
    scores = (keys @ q[..., None])[..., 0]  # (B, H, G)
    in_group = (torch.arange(group_size, device=q.device) <= slot[:, None])[:, None]
    weights = torch.where(in_group, scores.relu().square(), scores * cross_scale)
    out = (weights[:, :, None] @ values + cross_scale * (q[:, :, None] @ sums))[:, :, 0]
    leaving = (slot + 1) % group_size
    sums.addcmul_(keys[rows, :, leaving][..., None], values[rows, :, leaving][:, :, None])
    if tail is None or conv_taps is None:
        return out
    return out + head_conv_step(v, tail, lengths, conv_taps)


def grouped_tree(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    states: tuple[Tensor, Tensor, Tensor],
    lengths: Tensor,
    positions: Tensor,
    seen: Tensor,
    cross_scale: Tensor | float,
    tail: Tensor | None,
    conv_taps: Tensor | None,
) -> Tensor:
    """As `grouped_attention_tree_reference`."""
    sums, keys, values = states
    size = keys.shape[2]
    q, k, v = (part.transpose(1, 2) for part in (normalised(q), normalised(k), v))
    tokens = _newest(lengths, size)
    # what is further back is in the sums
    ring = (tokens >= 0) & (tokens > lengths[:, None] - size)
    visible = _before_and_in_tree(ring, seen)
    same = positions[:, :, None] // size == torch.cat([tokens, positions], dim=1)[:, None] // size
    # a key counts as its group stands to the node's own: the same, or one before
    scores = q @ torch.cat([keys, k], dim=2).transpose(-1, -2)
    weights = torch.where(same[:, None], scores.relu().square(), scores * cross_scale)
    out = (weights * visible[:, None]) @ torch.cat([values, v], dim=2) + cross_scale * (q @ sums)
    if tail is not None and conv_taps is not None:
        tokens = _newest(lengths, tail.shape[2])
        ages = positions[:, :, None] - torch.cat([tokens, positions], dim=1)[:, None]
        reached = _before_and_in_tree(tokens >= 0, seen) & (ages >= 0) & (ages < tail.shape[2])
        taps = conv_taps.to(v.dtype)[:, (tail.shape[2] - 1 - ages).clamp(0, tail.shape[2] - 1)]
        out = out + (taps * reached).transpose(0, 1) @ torch.cat([tail, v], dim=2)
    return out.transpose(1, 2)


def _newest(lengths: Tensor, size: int) -> Tensor:
    """The newest token in each slot of a ring (B, size) after `lengths` (B) tokens; negative: none."""
    last = lengths[:, None] - 1
    return last - (last - torch.arange(size, device=lengths.device)) % size


def _before_and_in_tree(before: Tensor, seen: Tensor) -> Tensor:
    """What each node sees of a ring (B, S), and of the tree (N, N): (B, N, S + N)."""
    shape = (len(before), len(seen), -1)
    return torch.cat([before[:, None].expand(shape), seen.expand(shape)], dim=-1)


def head_conv_step(v: Tensor, tail: Tensor, lengths: Tensor, taps: Tensor) -> Tensor:
    """One token of `head_conv`: v (B, H, D); tail (B, H, P + 1, D), a ring, updated in place; token p in slot
    p % size.
    """
    size = tail.shape[2]
    tail[torch.arange(len(lengths), device=v.device), :, lengths % size] = v.to(tail.dtype)
    ages = (lengths[:, None] - torch.arange(size, device=v.device)) % size
    by_slot = taps.to(tail.dtype)[:, size - 1 - ages].transpose(0, 1)  # (B, H, P + 1)
    return (by_slot[:, :, None] @ tail)[:, :, 0].to(v.dtype)


def head_conv(history: Tensor, taps: Tensor) -> Tensor:
    """Causal convolution with one filter a head: history (B, P + T, H, D), taps (H, P + 1) -> (B, T, H, D).

    Blocks of tokens times a banded Toeplitz matrix: one matrix product instead of P + 1 passes over memory.
    """
    batch, total, heads, width = history.shape
    reach = taps.shape[1] - 1
    time = total - reach
    block = min(time, max(reach, 32))
    count = -(-time // block)
    # entry [t, s] is tap s - t: rows of taps padded by zeros, each shifted by one
    padded = F.pad(taps, (0, block))
    band = padded.repeat(1, block)[:, : block * (block + reach)].view(heads, block, block + reach)
    history = F.pad(history, (0, 0, 0, 0, 0, count * block - time)).transpose(1, 2)
    windows = history.unfold(2, block + reach, block)  # (B, H, N, D, block + P)
    out = torch.einsum("bhnds,hts->bhntd", windows, band)
    return out.reshape(batch, heads, count * block, width)[:, :, :time].transpose(1, 2)
