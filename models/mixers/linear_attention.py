"""Taylor linear attention as a mixer (Based, arXiv:2402.18668 sec. 4.1)."""

import torch
from torch import Tensor

from recallfront.kernels.taylor_attention.operator import (
    taylor_attention,
    taylor_attention_extend,
    taylor_attention_step,
)
from recallfront.models.layers import Linear
from recallfront.models.mixers.base import Mixer
from recallfront.models.state import Block, LayerState, Layout, Step

_EPS = 1e-6


class TaylorAttention(Mixer):
    """Queries and keys of `feature_dim` a head, expanded by the second-order Taylor map; no positions."""

    def __init__(self, width: int, num_heads: int, feature_dim: int, *, std: float, out_scale: float) -> None:
        super().__init__()
        self.heads, self.feature_dim, self.head_dim = num_heads, feature_dim, width // num_heads
        self.qkv = Linear(width, num_heads * (2 * feature_dim + self.head_dim), std=std)
        self.out = Linear(width, width, std=std * out_scale)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (..., H, F) and v (..., H, D)."""
        features, shape = self.heads * self.feature_dim, (*x.shape[:-1], self.heads)
        q, k, v = torch.split(self.qkv(x), [features, features, self.heads * self.head_dim], dim=-1)
        return (
            q.view(*shape, self.feature_dim),
            k.view(*shape, self.feature_dim),
            v.view(*shape, self.head_dim),
        )

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = self._project(layout.unpack(x))
        out: Tensor = self.out(layout.pack(taylor_attention(q, k, v, eps=_EPS).flatten(2)))
        return out

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        features = 1 + self.feature_dim + self.feature_dim * (self.feature_dim + 1) // 2
        shape = (batch_size, self.heads, features, self.head_dim + 1)
        # sums over the whole text: bfloat16 would stop growing
        return {"sums": torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))}

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        q, k, v = (part.to(state["sums"].dtype) for part in self._project(x))
        o, state["sums"] = taylor_attention_extend(
            q, k, v, state["sums"], self.feature_dim**-0.5, _EPS, block.padding
        )
        out: Tensor = self.out(o.flatten(2).to(x.dtype))
        return out

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        q, k, v = self._project(x)
        o, state["sums"] = taylor_attention_step(q, k, v, state["sums"], eps=_EPS)
        out: Tensor = self.out(o.flatten(1))
        return out
