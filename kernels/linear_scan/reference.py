"""Definition of the linear scan: a loop over time."""

import torch
from torch import Tensor


def linear_scan_reference(
    a: Tensor, b: Tensor, initial_state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h_t = a_t * h_{t-1} + b_t (arXiv:2402.19427 eq. 4), with a_t = 0 where `reset`.

    a, b (B, T, D), initial_state (B, D), reset (B, T). Returns h (B, T, D) and the last h (B, D).
    """
    if reset is not None:
        a = a.masked_fill(reset[..., None], 0)
    h = torch.zeros_like(b[:, 0]) if initial_state is None else initial_state
    states = []
    for step in range(a.shape[1]):
        h = a[:, step] * h + b[:, step]
        states.append(h)
    return torch.stack(states, dim=1), h
