"""RetNet (arXiv:2307.08621) as a mixer."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recallfront.models.mixers.matrix_state import DecayingSum, MatrixStateConfig
from recallfront.models.parts.layers import rotate


class RetNetConfig(MatrixStateConfig):
    """RetNet (arXiv:2307.08621): one fixed decay per head, rotary positions."""

    mixer: Literal["retnet"] = "retnet"
    value_expansion: int = Field(
        default=2, ge=1, description="Width of all heads' values together over the model's width."
    )

    @model_validator(mode="after")
    def _check_rotary(self) -> Self:
        if self.keys % 2:
            raise ValueError(f"state_dim is {self.keys}; retnet turns keys in pairs, so it must be even")
        return self

    def build(self) -> "Retention":
        return Retention(self)


def fixed_decay(heads: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """log(1 - 2^(-5 - h)) for each head (arXiv:2307.08621 sec. 3.1)."""
    return torch.log1p(-(2.0 ** (-5 - torch.arange(heads, device=device, dtype=torch.float64)))).to(dtype)


class Retention(DecayingSum):
    """Heads forget at fixed rates, and their queries and keys are turned by their positions."""

    def prepare(self, q: Tensor, k: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor]:
        config = self.config
        turned = (rotate(x, positions, config.keys, longest, config.rope_theta) for x in (q, k))
        q, k = turned
        return q, k

    def decay(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        return fixed_decay(self.heads, x.device, wide).expand(*x.shape[:-1], self.heads), v
