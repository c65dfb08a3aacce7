"""Public form of grouped attention, and its one-token form with a state of constant size."""

import torch
from torch import Tensor

from recallfront.kernels.backend import Backend, use_reference
from recallfront.kernels.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.grouped_attention.pytorch import (
    grouped_attention_pytorch,
    head_conv_step,
    normalised,
)
from recallfront.kernels.grouped_attention.reference import grouped_attention_reference


def grouped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group_size: int,
    conv_taps: Tensor | None = None,
    cross_scale: Tensor | float = 1.0,
    backend: Backend = "auto",
) -> Tensor:
    """Grouped, augmented linear attention (arXiv:2406.07368 sec. 4): squared-ReLU inside a group, linear
    across.

    q, k, v (B, T, H, D) as projected; q and k are scaled to unit length here. Groups are `group_size` tokens
    from the first on. conv_taps (H, P + 1): causal convolution on v, one filter a head, the last tap on the
    newest token. cross_scale: a number or a tensor of one, multiplies the part across groups. Accumulates in
    float32 at least. Returns (B, T, H, D) in the type of v. Raises ValueError where shapes, types or sizes do
    not fit together.
    """
    check_shape("grouped_attention", "q", q, (None, None, None, None))
    check_shape("grouped_attention", "k", k, tuple(q.shape))
    check_shape("grouped_attention", "v", v, tuple(q.shape))
    check_same_dtype("grouped_attention", q=q, k=k, v=v)
    if group_size < 1:
        raise ValueError(f"grouped_attention: group_size is {group_size}; it must be at least 1")
    if min(q.shape) == 0:
        raise ValueError(f"grouped_attention: q has shape {tuple(q.shape)}; no size may be 0")
    dtype = accumulation_dtype(v.dtype)
    if conv_taps is not None:
        check_shape("grouped_attention", "conv_taps", conv_taps, (q.shape[2], None))
        conv_taps = conv_taps.to(dtype)
    reference = use_reference("grouped_attention", backend)
    run = grouped_attention_reference if reference else grouped_attention_pytorch
    return run(q.to(dtype), k.to(dtype), v.to(dtype), group_size, conv_taps, cross_scale).to(v.dtype)


def grouped_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    *,
    cross_scale: Tensor | float = 1.0,
    tail: Tensor | None = None,
    conv_taps: Tensor | None = None,
) -> Tensor:
    """One token of `grouped_attention`, q, k, v (B, H, D), at position `lengths` (B); all states change in
    place.

    The last G - 1 tokens lie in rings: keys (unit length), values (B, H, G, D), token p in slot p % G. Those
    of the group before weigh as earlier groups do, so nothing has to be moved when a group is full: each step
    folds one token, the one whose slot comes next, into sums (B, H, D, D), in the same time whatever the
    position. tail (B, H, P + 1, D): ring of the last values, for conv_taps (H, P + 1). Returns (B, H, D).
    """
    group_size, dtype = keys.shape[2], sums.dtype
    rows = torch.arange(q.shape[0], device=q.device)
    slot = lengths % group_size
    q, v_wide = normalised(q.to(dtype)), v.to(dtype)
    keys[rows, :, slot] = normalised(k.to(dtype))
    values[rows, :, slot] = v_wide
    scores = (keys @ q[..., None])[..., 0]  # (B, H, G)
    in_group = (torch.arange(group_size, device=q.device) <= slot[:, None])[:, None]
    weights = torch.where(in_group, scores.relu().square(), scores * cross_scale)
    out = (weights[:, :, None] @ values + cross_scale * (q[:, :, None] @ sums))[:, :, 0]
    leaving = (slot + 1) % group_size
    sums.addcmul_(keys[rows, :, leaving][..., None], values[rows, :, leaving][:, :, None])
    if tail is not None and conv_taps is not None:
        out = out + head_conv_step(v_wide, tail, lengths, conv_taps)
    return out.to(v.dtype)
