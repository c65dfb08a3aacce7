"""Gated linear attention (arXiv:2312.06635) as a mixer."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recallfront.models.mixers.matrix_state import DecayingSum, MatrixStateConfig
from recallfront.models.parts.layers import Linear


class GLAConfig(MatrixStateConfig):
    """Gated linear attention (arXiv:2312.06635): the input gives one decay per key dimension."""

    mixer: Literal["gla"] = "gla"
    gate_rank: int = Field(default=16, ge=1, description="Rank of the map that gives the decays.")
    gate_temperature: float = Field(
        default=16.0, gt=0, description="The logarithms of the decays are divided by this."
    )

    def build(self) -> "GatedLinearAttention":
        return GatedLinearAttention(self)

    def decay_matrix(self) -> int:
        return self.gate_rank * (self.width + self.num_heads * self.keys)

    def vectors(self) -> int:
        return self.num_heads * self.keys


class LowRankDecay(nn.Module):
    """log decay = log sigmoid(W2 W1 x + b) / temperature, a number a key dimension (arXiv:2312.06635 sec.
    4.4).
    """

    def __init__(self, width: int, heads: int, keys: int, rank: int, temperature: float) -> None:
        super().__init__()
        self.heads, self.temperature = heads, temperature
        self.down = Linear(width, rank, std=width**-0.5)
        self.up = Linear(rank, heads * keys, bias=True, std=rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Log decay (..., H, K), in float32 at least."""
        logits: Tensor = self.up(self.down(x))
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.logsigmoid(logits.to(wide)).view(*x.shape[:-1], self.heads, -1) / self.temperature


class GatedLinearAttention(DecayingSum):
    """Each row of the matrix decays at a rate of its own."""

    def __init__(self, config: GLAConfig) -> None:
        super().__init__(config)
        self.low_rank = LowRankDecay(
            config.width, config.num_heads, config.keys, config.gate_rank, config.gate_temperature
        )

    def decay(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.low_rank(x), v
