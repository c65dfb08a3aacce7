"""Definition of gated linear attention: a loop over time."""

import torch
from torch import Tensor


def gated_linear_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = e^{g_t} S_{t-1} + k_t v_t^T, o_t = scale * q_t^T S_t (arXiv:2312.06635 eq. 3).

    q, k (B, T, H, K), v (B, T, H, V), log_decay (B, T, H, K or 1), state (B, H, K, V).
    """
    outputs = []
    for time in range(q.shape[1]):
        state = log_decay[:, time, :, :, None].exp() * state + k[:, time, :, :, None] * v[:, time, :, None]
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, time], state))
    return torch.stack(outputs, dim=1), state
