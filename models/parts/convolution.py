"""The depthwise causal convolution that mixers are made of."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recallfront.kernels.short_conv.operator import Activation, short_conv, short_conv_step
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.layers import Drawn
from recallfront.models.parts.state import Block, Layout


class ConvTaps(Drawn):
    """Depthwise convolution with taps (C, K), a bias (C), if any, and an activation; std None draws as PyTorch's
    Conv1d does.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        std: float | None = None,
        bias: bool = True,
        activation: Activation = None,
    ) -> None:
        super().__init__()
        self.std, self.activation = std, activation
        self.taps = nn.Parameter(torch.empty(channels, size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def initialise(self, generator: Generator) -> None:
        if self.std is not None:
            nn.init.normal_(self.taps, std=self.std, generator=generator)
            if self.bias is not None:
                nn.init.zeros_(self.bias)
            return
        bound = 1 / math.sqrt(self.taps.shape[1])
        nn.init.uniform_(self.taps, -bound, bound, generator=generator)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound, generator=generator)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return short_conv(
            x, self.taps, bias=self.bias, positions=layout.positions, activation=self.activation
        )[0]

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        channels, size = self.taps.shape
        return torch.zeros(batch_size, size - 1, channels, device=device, dtype=dtype)

    def extend(self, x: Tensor, state: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        y, last = short_conv(x, self.taps, bias=self.bias, initial_state=state, activation=self.activation)
        if block.counts is not None:
            last = self.follow(x, state, block)
        return y, last

    def branch(self, x: Tensor, state: Tensor, branches: Branches) -> Tensor:
        """The nodes of a draft tree, each over its own path."""
        history = torch.cat([state, x], dim=1)[:, branches.history(state.shape[1])]  # (B, N, K, C)
        y = torch.einsum("bnkc,ck->bnc", history, self.taps)
        y = y if self.bias is None else y + self.bias
        return F.silu(y) if self.activation else y

    def follow(self, x: Tensor, state: Tensor, block: Block) -> Tensor:
        """The state after a block x (B, T, C)."""
        return block.last(torch.cat([state, x], dim=1), state.shape[1])

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return short_conv_step(x, self.taps, state, bias=self.bias, activation=self.activation, in_place=True)
