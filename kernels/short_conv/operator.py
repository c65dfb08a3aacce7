"""Public form of the short convolution.

The kernels are imported where they are first used, since not every machine has Triton.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import Backend, choose, wants_gradient
from recallfront.kernels.common.checks import check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.short_conv.coverage import obstacle
from recallfront.kernels.short_conv.pytorch import short_conv_pytorch
from recallfront.kernels.short_conv.reference import short_conv_reference

Activation = Literal["silu"] | None


@outside_autocast
def short_conv(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
    activation: Activation = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Causal depthwise convolution (arXiv:2402.19427 sec. 2.4): y_t = f(bias + sum_s taps[:, K - 1 - s] *
    x_{t-s}).

    x (B, T, C); taps (C, K), the last multiplies the newest token; bias (C); both are taken in the type of x;
    initial_state (B, K - 1, C), the inputs before the first, oldest first, zeros by default; positions (B, T), which
    restart at 0 where a packed document starts: no tap reaches past such a start; f is `activation`, or nothing.
    Returns y (B, T, C) and the last K - 1 inputs (B, K - 1, C). Raises ValueError if shapes do not fit together.
    """
    check_shape("short_conv", "x", x, (None, None, None))
    batch, time, channels = x.shape
    check_shape("short_conv", "taps", taps, (channels, None))
    reach = taps.shape[1] - 1
    if reach < 0 or time == 0:
        raise ValueError(
            f"short_conv: {taps.shape[1]} taps over {time} tokens; at least one of each is needed"
        )
    _check_activation("short_conv", activation)
    taps = taps.to(x.dtype)
    if bias is not None:
        check_shape("short_conv", "bias", bias, (channels,))
        bias = bias.to(x.dtype)
    if positions is not None:
        check_shape("short_conv", "positions", positions, (batch, time))
    if initial_state is not None:
        check_shape("short_conv", "initial_state", initial_state, (batch, reach, channels))
    form = choose(
        "short_conv", backend, x, taps, bias, initial_state, positions,
        obstacle=lambda: obstacle(x, taps, bias, initial_state),
    )  # fmt: skip
    if form == "triton":
        from recallfront.kernels.short_conv.triton import convolve

        y, last = convolve(x, taps, bias, initial_state, positions, activation == "silu")
        return y, last
    if initial_state is None:
        initial_state = x.new_zeros(batch, reach, channels)
    run = short_conv_reference if form == "reference" else short_conv_pytorch
    y = run(x, taps, bias, initial_state, positions)
    last = torch.cat([initial_state, x[:, max(time - reach, 0) :]], dim=1)
    return F.silu(y) if activation else y, last[:, -reach:] if reach else initial_state


@outside_autocast
def short_conv_step(
    x: Tensor,
    taps: Tensor,
    state: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Activation = None,
    in_place: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """One token of `short_conv`: x (B, C), state (B, K - 1, C); returns y (B, C) and the new state.

    in_place: the memory of `state` may hold the new one. Raises ValueError as `short_conv` does.
    """
    check_shape("short_conv_step", "taps", taps, (None, None))
    check_shape("short_conv_step", "x", x, (None, taps.shape[0]))
    check_shape("short_conv_step", "state", state, (x.shape[0], taps.shape[1] - 1, x.shape[1]))
    taps = taps.to(x.dtype)
    if bias is not None:
        check_shape("short_conv_step", "bias", bias, (x.shape[1],))
        bias = bias.to(x.dtype)
    _check_activation("short_conv_step", activation)
    given = (x, taps, bias, state)
    form = choose(
        "short_conv_step", backend, *given, obstacle=lambda: obstacle(*given) or wants_gradient(*given)
    )
    if form == "triton":
        from recallfront.kernels.short_conv.triton import step

        state = (state if in_place else state.clone()).contiguous()
        return step(x, taps, bias, state, activation == "silu"), state
    history = torch.cat([state, x[:, None]], dim=1)
    y = (history * taps.T).sum(1)
    y = y if bias is None else y + bias
    return F.silu(y) if activation else y, history[:, 1:]


def _check_activation(operator: str, activation: Activation) -> None:
    if activation not in (None, "silu"):
        raise ValueError(f"{operator}: activation is {activation!r}; it may be 'silu' or None")
