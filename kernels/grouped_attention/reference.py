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
