"""Mamba-2 (arXiv:2405.21060) as a mixer."""

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from recallfront.models.configs.mixer import MixerConfig
from recallfront.models.mixers.matrix_state import DecayingSum, MatrixStateConfig, SelectiveDecay
from recallfront.models.parts.gating import gated
from recallfront.models.parts.layers import Drawn


class Mamba2Config(MatrixStateConfig):
    """Mamba-2 (arXiv:2405.21060): the input gives one decay per head; groups of heads share keys and queries."""

    mixer: Literal["mamba2"] = "mamba2"
    state_dim: int | None = Field(
        default=64, ge=1, description="Rows of each head's state; null is width / num_heads."
    )
    value_expansion: int = Field(
        default=2, ge=1, description="Width of all heads' values together over the model's width."
    )
    conv_size: int = Field(
        default=4, ge=1, description="Taps of the convolution after the projections; 1 is none."
    )
    num_groups: int | None = Field(
        default=1, ge=1, description="Groups of heads that share keys and queries; null is num_heads."
    )

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        self._check_divides("num_groups", self.key_heads, "num_heads", self.num_heads)
        return self

    def build(self) -> "Mamba2":
        return Mamba2(self)

    @property
    def key_heads(self) -> int:
        return self.num_groups or self.num_heads

    @property
    def norm_width(self) -> int:
        return self.inner

    def decay_matrix(self) -> int:
        return self.width * self.num_heads

    def vectors(self) -> int:
        return 3 * self.num_heads  # bias and rate of the decay, the skip

    @classmethod
    def keeping(cls, attention: MixerConfig) -> dict[str, Any]:
        return super().keeping(attention) | {"num_groups": None}


class Skip(Drawn):
    """A learned multiple of the values, added to the output (D of Mamba-2)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads))

    def initialise(self, generator: Generator) -> None:
        nn.init.ones_(self.weight)

    def forward(self, v: Tensor) -> Tensor:
        """v (..., H, V) times one number a head."""
        return v * self.weight[:, None].to(v.dtype)


class Mamba2(DecayingSum):
    """The values enter by the step size that the decay follows from; a skip goes around the state."""

    scale: ClassVar[float | None] = 1.0

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__(config)
        self.skip = Skip(config.num_heads)
        self.selective = SelectiveDecay(config.width, config.num_heads)

    def prepare(self, q: Tensor, k: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor]:
        return self._to_all_heads(q), self._to_all_heads(k)

    def _to_all_heads(self, x: Tensor) -> Tensor:
        """Each group's keys for all of its heads: (B, T, groups, K) -> (B, T, H, K), no copy of a single group's."""
        groups = x.shape[2]
        return x[:, :, :, None].expand(*x.shape[:3], self.heads // groups, -1).flatten(2, 3)

    def decay(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        log_decay, dt = self.selective(x)
        return log_decay, v * dt[..., None].to(v.dtype)

    def finish(self, x: Tensor, o: Tensor, v: Tensor) -> Tensor:
        """The gate goes before the norm, which spans all heads."""
        assert self.gate is not None
        o = o + self.skip(v)
        out: Tensor = self.out(self.norm(gated(self.gate(x), o.flatten(-2), "silu")))
        return out
