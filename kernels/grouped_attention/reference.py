"""Definition of grouped attention."""

import torch
from torch import Tensor


def grouped_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, group_size: int, conv_taps: Tensor | None, cross_scale: Tensor | float
) -> Tensor:
    """o_t = local + cross_scale * cross + conv (arXiv:2406.07368 sec. 4), with q and k scaled to unit length.

    local_t sums relu(q_t . k_j)^2 v_j over j <= t of t's own group; cross_t sums (q_t . k_j) v_j over all
    earlier groups; conv_t = sum_o conv_taps[:, P - o] v_{t-o}, one filter a head. q, k, v (B, T, H, D);
    conv_taps (H, P + 1).
    """
    time = q.shape[1]
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    scores = torch.einsum("bihd,bjhd->bhij", q, k)
    group = torch.arange(time, device=q.device) // group_size
    same, earlier = group[:, None] == group, group[:, None] > group
    weights = scores.relu().square().tril() * same + cross_scale * scores * earlier
    out = torch.einsum("bhij,bjhd->bihd", weights, v)
    if conv_taps is not None:
        for distance in range(min(conv_taps.shape[1], time)):
            tap = conv_taps[:, conv_taps.shape[1] - 1 - distance][:, None]
            shifted = torch.cat([torch.zeros_like(v[:, :distance]), v[:, : time - distance]], dim=1)
            out = out + tap * shifted
    return out


def grouped_attention_step_reference(
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
    """The token at `lengths` (B), row after row: q, k, v and the result (B, H, D), in the states' type.

    In each slot p % G of the rings keys, values (B, H, G, D) lies the newest token p; the states change in place.
    """
    size, out = keys.shape[2], torch.empty_like(q)
    for row, length in enumerate(lengths.tolist()):
        slot, leaving = length % size, (length + 1) % size
        query = q[row] / q[row].norm(dim=-1, keepdim=True)
        keys[row, :, slot] = k[row] / k[row].norm(dim=-1, keepdim=True)
        values[row, :, slot] = v[row]
        scores = torch.einsum("hd,hsd->hs", query, keys[row])
        here, before = scores[:, : slot + 1].relu().square(), cross_scale * scores[:, slot + 1 :]
        mixed = torch.einsum("hs,hsd->hd", torch.cat([here, before], dim=1), values[row])
        out[row] = mixed + cross_scale * torch.einsum("hd,hde->he", query, sums[row])
        sums[row] += torch.einsum("hd,he->hde", keys[row, :, leaving], values[row, :, leaving])
        if tail is not None and conv_taps is not None:
            reach = tail.shape[2]
            tail[row, :, length % reach] = v[row]
            for age in range(min(reach, length + 1)):
                out[row] += conv_taps[:, reach - 1 - age, None] * tail[row, :, (length - age) % reach]
    return out


def grouped_attention_tree_reference(
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
    """Every node is the last step along its path: q, k, v and the result (B, N, H, D), in the states' type."""
    out = torch.empty_like(v)
    for node in range(q.shape[1]):
        nodes = seen[node].nonzero()[:, 0]
        path = nodes[positions[0, nodes].argsort()].tolist()
        sums, keys, values = (state.clone() for state in states)
        ring = None if tail is None else tail.clone()
        for depth, at in enumerate(path):
            out[:, node] = grouped_attention_step_reference(
                q[:, at],
                k[:, at],
                v[:, at],
                sums,
                keys,
                values,
                lengths + depth,
                cross_scale,
                ring,
                conv_taps,
            )
    return out
