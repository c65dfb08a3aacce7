"""Definition of linear attention over features."""

import torch
from torch import Tensor


def feature_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, eps: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """o_t = sum_{j <= t} (q_t . k_j) v_j / (sum_{j <= t} q_t . k_j + eps) (arXiv:2006.16236 eq. 12).

    q, k (B, T, H, F), v (B, T, H, V); state (B, H, F, V + 1) sums k v^T, and k in its last column. Returns o (B, T, H,
    V) and the last state.
    """
    outputs = []
    for time in range(q.shape[1]):
        value = torch.cat([v[:, time], torch.ones_like(v[:, time, :, :1])], dim=-1)
        state = state + k[:, time, :, :, None] * value[:, :, None]
        summed = torch.einsum("bhf,bhfv->bhv", q[:, time], state)
        outputs.append(summed[..., :-1] / (summed[..., -1:] + eps))
    return torch.stack(outputs, dim=1), state
