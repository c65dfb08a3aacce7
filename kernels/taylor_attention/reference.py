"""Definition of Taylor attention."""

import torch
from torch import Tensor


def taylor_attention_reference(q: Tensor, k: Tensor, v: Tensor, scale: float, eps: float) -> Tensor:
    """o_i = sum_{j <= i} w_ij v_j / (sum_{j <= i} w_ij + eps), w = 1 + s + s^2 / 2, s = scale * q_i . k_j.

    The Taylor polynomial of the softmax's exponential (arXiv:2402.18668 sec. 4.1). q, k (B, T, H, F), v (B,
    T, H, V).
    """
    scores = scale * torch.einsum("bihf,bjhf->bhij", q, k)
    weights = (1 + scores + scores.square() / 2).tril()
    numerator = torch.einsum("bhij,bjhv->bihv", weights, v)
    return numerator / (weights.sum(-1).transpose(1, 2)[..., None] + eps)
