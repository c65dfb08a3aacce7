"""Public form of the short convolution."""

import torch
from torch import Tensor

from recallfront.kernels.backend import Backend, use_reference
from recallfront.kernels.checks import check_shape
from recallfront.kernels.short_conv.pytorch import short_conv_pytorch
from recallfront.kernels.short_conv.reference import short_conv_reference


def short_conv(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Causal depthwise convolution (arXiv:2402.19427 sec. 2.4): y_t = bias + sum_s taps[:, K - 1 - s] *
    x_{t-s}.

    x (B, T, C); taps (C, K), the last multiplies the newest token; bias (C); initial_state (B, K - 1, C), the
    inputs before the first, oldest first, zeros by default; positions (B, T), which restart at 0 where a
    packed document starts: no tap reaches past such a start. Returns y (B, T, C) and the last K - 1 inputs
    (B, K - 1, C). Raises ValueError where shapes do not fit together.
    """
    check_shape("short_conv", "x", x, (None, None, None))
    batch, time, channels = x.shape
    check_shape("short_conv", "taps", taps, (channels, None))
    reach = taps.shape[1] - 1
    if reach < 0 or time == 0:
        raise ValueError(
            f"short_conv: {taps.shape[1]} taps over {time} tokens; at least one of each is needed"
        )
    if bias is not None:
        check_shape("short_conv", "bias", bias, (channels,))
    if positions is not None:
        check_shape("short_conv", "positions", positions, (batch, time))
    if initial_state is None:
        initial_state = x.new_zeros(batch, reach, channels)
    check_shape("short_conv", "initial_state", initial_state, (batch, reach, channels))
    run = short_conv_reference if use_reference("short_conv", backend) else short_conv_pytorch
    y = run(x, taps, bias, initial_state, positions)
    return y, torch.cat([initial_state, x[:, max(time - reach, 0) :]], dim=1)[
        :, -reach:
    ] if reach else initial_state


def short_conv_step(
    x: Tensor, taps: Tensor, state: Tensor, *, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token of `short_conv`: x (B, C), state (B, K - 1, C); returns y (B, C) and the new state."""
    history = torch.cat([state, x[:, None]], dim=1)
    y = (history * taps.T).sum(1)
    return (y if bias is None else y + bias), history[:, 1:]
