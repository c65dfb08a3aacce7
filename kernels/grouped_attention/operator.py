"""Public form of grouped attention, and its forms with a state of constant size: one token, and a draft tree.

The kernels are imported where they are first used, since not every machine has Triton.
"""

import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend, choose
from recallfront.kernels.common.checks import accumulation_dtype, check_same_dtype, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.grouped_attention.coverage import obstacle, step_obstacle, tree_obstacle
from recallfront.kernels.grouped_attention.pytorch import (
    grouped_attention_pytorch,
    grouped_step,
    grouped_tree,
)
from recallfront.kernels.grouped_attention.reference import (
    grouped_attention_reference,
    grouped_attention_step_reference,
    grouped_attention_tree_reference,
)


@outside_autocast
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
    float32 at least. Returns (B, T, H, D) in the type of v. Raises ValueError if shapes, types or sizes do
    not fit together, or no kernel covers them and backend is "triton".
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
    scale = _scale("grouped_attention", cross_scale)
    form = choose(
        "grouped_attention", backend, q, k, v, conv_taps, scale,
        obstacle=lambda: obstacle(q, k, v, conv_taps, scale),
    )  # fmt: skip
    if form == "triton":
        from recallfront.kernels.grouped_attention import triton as kernels

        number = 0.0 if isinstance(cross_scale, Tensor) else float(cross_scale)
        scale = None if scale is None else scale.to(dtype)
        mixed: Tensor = kernels.grouped_attention_op(q, k, v, scale, conv_taps, number, group_size)
        return mixed
    run = grouped_attention_reference if form == "reference" else grouped_attention_pytorch
    return run(q.to(dtype), k.to(dtype), v.to(dtype), group_size, conv_taps, cross_scale).to(v.dtype)


@outside_autocast
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
    backend: Backend = "auto",
) -> Tensor:
    """One token of `grouped_attention`, q, k, v (B, H, D), at position `lengths` (B); all states change in
    place.

    The last G - 1 tokens lie in rings: keys (unit length), values (B, H, G, D), token p in slot p % G. Those
    of the group before weigh as earlier groups do, so nothing has to be moved when a group is full: each step
    folds one token, the one whose slot comes next, into sums (B, H, D, D), in the same time whatever the
    position. tail (B, H, P + 1, D): ring of the last values, for conv_taps (H, P + 1). Returns (B, H, D) in the
    type of v. Raises ValueError as `grouped_attention` does.
    """
    name, dtype = "grouped_attention_step", sums.dtype
    check_shape(name, "q", q, (None, None, None))
    check_shape(name, "lengths", lengths, (q.shape[0],))
    _check_states(name, q, k, v, sums, keys, values, tail, conv_taps)
    scale = _scale(name, cross_scale)
    form = choose(
        name, backend, q, k, v, sums, keys, values, lengths, tail, conv_taps, scale,
        obstacle=lambda: step_obstacle(q, k, v, scale, conv_taps, states=(sums, keys, values, tail)),
    )  # fmt: skip
    if form == "triton":
        from recallfront.kernels.grouped_attention import triton as kernels

        number = 0.0 if isinstance(cross_scale, Tensor) else float(cross_scale)
        mixed: Tensor = kernels.grouped_attention_step_op(
            q, k, v, sums, keys, values, tail, lengths, scale, conv_taps, number
        )
        return mixed
    run = grouped_attention_step_reference if form == "reference" else grouped_step
    q, k, wide = q.to(dtype), k.to(dtype), v.to(dtype)
    return run(q, k, wide, sums, keys, values, lengths, cross_scale, tail, conv_taps).to(v.dtype)


@outside_autocast
def grouped_attention_tree(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    positions: Tensor,
    seen: Tensor,
    *,
    cross_scale: Tensor | float = 1.0,
    tail: Tensor | None = None,
    conv_taps: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Every node of a draft tree as the token that `grouped_attention_step` would read after the node's path.

    q, k, v (B, N, H, D) of the nodes; positions (B, N): a node's place in the text, `lengths` (B) for the root;
    seen (N, N), bool: which nodes a node continues from, itself included. The states are those of the step, and
    stay as they are. The convolution is unfolded over a node's path (arXiv:2406.07368 sec. 4.3). Returns (B, N,
    H, D) in the type of v. Raises ValueError as `grouped_attention` does.
    """
    name, dtype = "grouped_attention_tree", sums.dtype
    check_shape(name, "q", q, (None, None, None, None))
    check_shape(name, "lengths", lengths, (q.shape[0],))
    check_shape(name, "positions", positions, tuple(q.shape[:2]))
    check_shape(name, "seen", seen, (q.shape[1], q.shape[1]))
    if seen.dtype != torch.bool:
        raise ValueError(f"{name}: seen is {seen.dtype}; it must be torch.bool")
    _check_states(name, q, k, v, sums, keys, values, tail, conv_taps)
    scale = _scale(name, cross_scale)
    form = choose(
        name, backend, q, k, v, sums, keys, values, lengths, positions, seen, tail, conv_taps, scale,
        obstacle=lambda: tree_obstacle(q, k, v, scale, conv_taps, states=(sums, keys, values, tail)),
    )  # fmt: skip
    if form == "triton":
        from recallfront.kernels.grouped_attention import triton as kernels

        number = 0.0 if isinstance(cross_scale, Tensor) else float(cross_scale)
        mixed: Tensor = kernels.grouped_attention_tree_op(
            q, k, v, sums, keys, values, tail, lengths, positions, seen, scale, conv_taps, number
        )
        return mixed
    run = grouped_attention_tree_reference if form == "reference" else grouped_tree
    q, k, wide, states = q.to(dtype), k.to(dtype), v.to(dtype), (sums, keys, values)
    mixed = run(q, k, wide, states, lengths, positions, seen, cross_scale, tail, conv_taps)
    return mixed.to(v.dtype)


def _scale(name: str, cross_scale: Tensor | float) -> Tensor | None:
    """The scale where it is a tensor."""
    if not isinstance(cross_scale, Tensor):
        return None
    if cross_scale.numel() != 1:
        raise ValueError(
            f"{name}: cross_scale has shape {tuple(cross_scale.shape)}; it must be a single number"
        )
    return cross_scale


def _check_states(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    keys: Tensor,
    values: Tensor,
    tail: Tensor | None,
    conv_taps: Tensor | None,
) -> None:
    batch, heads, width = q.shape[0], *q.shape[-2:]
    check_shape(name, "k", k, tuple(q.shape))
    check_shape(name, "v", v, tuple(q.shape))
    check_same_dtype(name, q=q, k=k, v=v)
    check_shape(name, "sums", sums, (batch, heads, width, width))
    check_shape(name, "keys", keys, (batch, heads, None, width))
    check_shape(name, "values", values, tuple(keys.shape))
    check_same_dtype(name, sums=sums, keys=keys, values=values)
    if min(*q.shape, *keys.shape) == 0:
        raise ValueError(f"{name}: q has shape {tuple(q.shape)}, keys {tuple(keys.shape)}; no size may be 0")
    if (tail is None) != (conv_taps is None):
        raise ValueError(f"{name}: tail and conv_taps go together; give both or neither")
    if tail is not None and conv_taps is not None:
        check_shape(name, "tail", tail, (batch, heads, None, width))
        check_shape(name, "conv_taps", conv_taps, (heads, tail.shape[2]))
