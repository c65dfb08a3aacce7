"""Kimi Delta Attention (arXiv:2510.26692) as a mixer."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from recallfront.models.mixers.matrix_state import DeltaRule, MatrixStateConfig
from recallfront.models.parts.layers import Drawn, Linear, RMSNorm


class KDAConfig(MatrixStateConfig):
    """Kimi Delta Attention (arXiv:2510.26692): the delta rule with a decay a key dimension from the input."""

    letter: ClassVar[str] = "K"
    is_gated: ClassVar[bool] = False  # not by one matrix: its gate is of low rank
    state_passes: ClassVar[int] = 4

    mixer: Literal["kda"] = "kda"
    conv_size: int = Field(
        default=4, ge=1, description="Taps of the convolution after the projections; 1 is none."
    )
    gate_rank: int | None = Field(
        default=None,
        ge=1,
        description="Rank of the maps that give decays and gates; null is the width of a head's values.",
    )

    def build(self) -> "KimiDeltaAttention":
        return KimiDeltaAttention(self)

    @property
    def rank(self) -> int:
        return self.gate_rank or self.values

    def decay_matrix(self) -> int:
        low_rank = self.rank * (2 * self.width + self.num_heads * self.keys + self.inner)
        return low_rank + self.width * self.num_heads  # beta

    def vectors(self) -> int:
        return self.num_heads * (self.keys + 1) + self.inner  # bias and rates of the decay, bias of the gate


class ChannelDecay(Drawn):
    """log decay = -A softplus(W2 W1 x + b), a number a key dimension; A a head (arXiv:2510.26692 sec. 3)."""

    def __init__(self, width: int, heads: int, keys: int, rank: int) -> None:
        super().__init__()
        self.down = Linear(width, rank, std=width**-0.5)
        self.up = Linear(rank, heads * keys, std=rank**-0.5)
        self.bias = nn.Parameter(torch.empty(heads * keys))
        self.log_rate = nn.Parameter(torch.empty(heads))

    def initialise(self, generator: Generator) -> None:
        """As in Mamba-2: A uniform in [1, 16], softplus(b) log-uniform in [0.001, 0.1]."""
        nn.init.uniform_(self.log_rate, 1, 16, generator=generator)
        with torch.no_grad():
            self.log_rate.log_()
            uniform = torch.rand(self.bias.shape, generator=generator)
            step = torch.exp(math.log(1e-3) + uniform * (math.log(1e-1) - math.log(1e-3)))
            self.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor) -> Tensor:
        """Log decay (..., H, K), in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        logits = (self.up(self.down(x)).to(wide) + self.bias).unflatten(-1, (len(self.log_rate), -1))
        softplus = torch.logaddexp(logits, logits.new_zeros(()))
        return -self.log_rate.to(wide).exp()[:, None] * softplus


class KimiDeltaAttention(DeltaRule):
    """The delta rule on a matrix whose rows decay at rates of their own, behind a sigmoid gate of low rank.

    The convolution has a bias, as those of the other baselines here.
    """

    def __init__(self, config: KDAConfig) -> None:
        super().__init__(config)
        width, rank = config.width, config.rank
        self.channel_decay = ChannelDecay(width, config.num_heads, config.keys, rank)
        self.low_rank_gate = nn.Sequential(
            Linear(width, rank, std=width**-0.5), Linear(rank, config.inner, bias=True, std=rank**-0.5)
        )
        self.norm = RMSNorm(config.values, eps=1e-5)

    def decay(self, x: Tensor) -> Tensor:
        log_decay: Tensor = self.channel_decay(x)
        return log_decay

    def finish(self, x: Tensor, o: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.out(self.norm(o).flatten(-2) * torch.sigmoid(self.low_rank_gate(x)))
        return out
