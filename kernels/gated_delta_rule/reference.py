"""Definition of the gated delta rule: a loop over time."""

import torch
from torch import Tensor


def gated_delta_rule_reference(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = e^g S_{t-1} + beta k (v - k^T e^g S_{t-1})^T, o_t = scale * q_t^T S_t (arXiv:2412.06464 eq. 10).

    q, k (B, T, H, K), v (B, T, H, V), beta (B, T, H), log_decay (B, T, H, K or 1), state (B, H, K, V).
    With a decay a key dimension it is Kimi Delta Attention (arXiv:2510.26692 eq. 1).
    """
    outputs = []
    for time in range(q.shape[1]):
        state = log_decay[:, time, :, :, None].exp() * state
        error = v[:, time] - torch.einsum("bhk,bhkv->bhv", k[:, time], state)
        state = state + k[:, time, :, :, None] * (beta[:, time, :, None] * error)[:, :, None]
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, time], state))
    return torch.stack(outputs, dim=1), state
