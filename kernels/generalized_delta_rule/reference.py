"""Definition of the generalized delta rule: a loop over time."""

import torch
from torch import Tensor


def generalized_delta_rule_reference(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = (diag(e^{g_t}) + b_t a_t^T) S_{t-1} + k_t v_t^T, o_t = scale * q_t^T S_t (arXiv:2503.14456 sec. 3).

    q, k, a, b, log_decay (B, T, H, K), v (B, T, H, V), state (B, H, K, V).
    """
    outputs = []
    for time in range(q.shape[1]):
        read = torch.einsum("bhk,bhkv->bhv", a[:, time], state)
        state = log_decay[:, time, :, :, None].exp() * state + b[:, time, :, :, None] * read[:, :, None]
        state = state + k[:, time, :, :, None] * v[:, time, :, None]
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, time], state))
    return torch.stack(outputs, dim=1), state
