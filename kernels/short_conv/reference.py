"""Definition of the short convolution."""

import torch
from torch import Tensor


def short_conv_reference(
    x: Tensor, taps: Tensor, bias: Tensor | None, initial_state: Tensor, positions: Tensor | None
) -> Tensor:
    """y_t = bias + sum_s taps[:, K - 1 - s] * x_{t-s}; before the first token stands `initial_state` (B, K -
    1, C).

    With `positions` (B, T), x_{t-s} counts only where positions_t >= s: it is of the same document.
    """
    reach = taps.shape[1] - 1
    history = torch.cat([initial_state, x], dim=1)
    y = torch.zeros_like(x)
    for distance in range(reach + 1):
        past = history[:, reach - distance : reach - distance + x.shape[1]]
        if positions is not None:
            past = past * (positions >= distance)[..., None]
        y = y + taps[:, reach - distance] * past
    return y if bias is None else y + bias
