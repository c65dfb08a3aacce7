"""Linear attention as a mixer: Based's Taylor attention, other feature maps, each with or without augmentation."""

from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recallfront.kernels.feature_attention.operator import feature_attention, feature_attention_step
from recallfront.kernels.taylor_attention.operator import (
    taylor_attention,
    taylor_attention_extend,
    taylor_attention_step,
)
from recallfront.models.configs.mixer import MixerConfig, Projection, Rows
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.feature_maps import FeatureMapName, make_feature_map
from recallfront.models.parts.head_taps import HeadTaps
from recallfront.models.parts.layers import Linear
from recallfront.models.parts.ring import ring_write
from recallfront.models.parts.state import Block, LayerState, Layout, Step

_EPS = 1e-6


class LinearConfig(MixerConfig):
    """Linear attention with one of the feature maps, with or without augmentation."""

    letter: ClassVar[str] = "L"

    mixer: Literal["linear"] = "linear"
    feature_map: FeatureMapName = Field(default="elu", description="Map of queries and keys.")
    feature_dim: int | None = Field(
        default=None, ge=1, description="Width of queries and keys before the map; null is width / num_heads."
    )
    random_features: int = Field(default=64, ge=1, description="Number of random features of `performer`.")
    horizon: int = Field(
        default=2048, ge=1, description="Distance from which on the weights of `cosformer` are negative."
    )
    conv_size: int = Field(
        default=0, ge=0, description="Taps of the augmenting convolution on the values; 0 is none."
    )

    def build(self) -> "LinearAttention":
        return LinearAttention(self)

    @property
    def key_dim(self) -> int:
        return self.feature_dim or self.head_dim

    @property
    def expanded_dim(self) -> int:
        """Features a head; of the Taylor map with each product of two features once."""
        dim = self.key_dim
        if self.feature_map == "taylor":
            return 1 + dim + dim * (dim + 1) // 2
        if self.feature_map == "performer":
            return self.random_features
        return 2 * dim if self.feature_map in ("cosformer", "hedgehog") else dim

    def matrix_entries(self) -> int:
        learned = self.key_dim**2 if self.feature_map == "hedgehog" else 0
        projections = self.width * (2 * self.num_heads * self.key_dim + 2 * self.width)
        return projections + self.num_heads * learned

    def parameters(self) -> int:
        biases = 2 * self.num_heads * self.key_dim + 2 * self.width if self.biases else 0
        return self.matrix_entries() + biases + self.conv_size * self.num_heads

    def product_flops(self, length: int) -> int:
        return 4 * length * self.num_heads * self.expanded_dim * (self.head_dim + 1)

    def mixing_flops(self, length: int) -> int:
        return self.product_flops(length) + 2 * length * self.conv_size * self.width

    def state_elements(self, context_length: int) -> int:
        tail = max(self.conv_size - 1, 0) * self.width
        return self.num_heads * self.expanded_dim * (self.head_dim + 1) + tail

    def materialised_state_elements(self, context_length: int) -> int:
        """With each product of two Taylor features twice (1 + d + d^2 features), as Based's code holds them."""
        twice = self.key_dim * (self.key_dim - 1) // 2 if self.feature_map == "taylor" else 0
        return self.state_elements(context_length) + self.num_heads * twice * (self.head_dim + 1)

    def projection(self) -> Projection:
        keys = Rows(self.num_heads, self.key_dim)
        return Projection("qkv", {"q": keys, "k": keys, "v": Rows(self.num_heads, self.head_dim)})


class LinearAttention(Mixer):
    """Queries and keys of `feature_dim` a head through a feature map, and a convolution on the values if any.

    The Taylor map goes through its own operator, which needs no features where the text is short.
    """

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        width, self.heads, std = config.width, config.num_heads, config.width**-0.5
        self.key_dim, self.head_dim, self.features = config.key_dim, config.head_dim, config.expanded_dim
        self.is_taylor = config.feature_map == "taylor"
        self.qkv = Linear(width, self.heads * (2 * self.key_dim + self.head_dim), bias=config.biases, std=std)
        self.out = Linear(width, width, bias=config.biases, std=std * config.out_scale)
        self.feature_map = make_feature_map(
            config.feature_map,
            heads=self.heads,
            dim=self.key_dim,
            random_features=config.random_features,
            horizon=config.horizon,
        )
        self.taps = HeadTaps(self.heads, config.conv_size) if config.conv_size else None

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (B, T, H, D_k) and v (B, T, H, D)."""
        keys, shape = self.heads * self.key_dim, (*x.shape[:-1], self.heads)
        q, k, v = torch.split(self.qkv(x), [keys, keys, self.heads * self.head_dim], dim=-1)
        return (
            q.reshape(*shape, self.key_dim),
            k.reshape(*shape, self.key_dim),
            v.reshape(*shape, self.head_dim),
        )

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = self._project(x)
        if self.is_taylor:
            o = layout.by_document(partial(taylor_attention, eps=_EPS), q, k, v)
        else:
            positions = layout.positions
            if positions is None:
                positions = torch.arange(q.shape[1], device=x.device)[None]
            # CUDA's autocast computes exponentials and powers in float32
            phi_q, phi_k = (self.feature_map(part, positions).to(v.dtype) for part in (q, k))
            o = layout.by_document(lambda *parts: feature_attention(*parts, eps=_EPS)[0], phi_q, phi_k, v)
        if self.taps is not None:
            o = o + self.taps(v, layout)
        out: Tensor = self.out(o.flatten(2))
        return out

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        # sums over the whole text: bfloat16 would stop growing
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch_size, self.heads, self.features, self.head_dim + 1)
        state = {"sums": torch.zeros(shape, device=device, dtype=wide)}
        if self.taps is not None:
            state["tail"] = self.taps.init_state(batch_size, self.head_dim, device, wide)
        return state

    def live(self, state: LayerState, length: int) -> list[Tensor]:
        return [state["sums"], *(HeadTaps.live(state["tail"]) if "tail" in state else [])]

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        q, k, v = (part.to(state["sums"].dtype) for part in self._project(x))
        if self.is_taylor:
            o, state["sums"] = taylor_attention_extend(
                q, k, v, state["sums"], self.key_dim**-0.5, _EPS, block.padding
            )
        else:
            q, k = (self.feature_map(part.to(x.dtype), block.positions) for part in (q, k))
            q, k = q.to(v.dtype), k.to(v.dtype)
            o, state["sums"] = feature_attention(
                q, k, v, eps=_EPS, initial_state=state["sums"], padding=block.padding
            )
        if self.taps is not None:
            mixed, state["tail"] = self.taps.extend(v, state["tail"], block)
            o = o + mixed
        out: Tensor = self.out(o.flatten(2).to(x.dtype))
        return out

    can_branch = True

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> tuple[Tensor, LayerState]:
        q, k, v = self._project(x)
        dtype = state["sums"].dtype
        if self.is_taylor:  # its products in the width of the sums, as `step` and `extend` take them
            q, k = q.to(dtype), k.to(dtype)
        phi_q, phi_k = (self.feature_map(part, branches.positions).to(dtype) for part in (q, k))
        queries, values = phi_q.transpose(1, 2), F.pad(v.to(dtype), (0, 1), value=1.0)
        weights = (queries @ phi_k.permute(0, 2, 3, 1)) * branches.mask
        summed = weights @ values.transpose(1, 2) + queries @ state["sums"]
        o = (summed[..., :-1] / (summed[..., -1:] + _EPS)).transpose(1, 2)
        if self.taps is not None:
            o = o + self.taps.branch(v, state["tail"], branches)
        return self.out(o.flatten(2).to(x.dtype)), {"keys": phi_k, "values": values}

    def follow(self, left: LayerState, state: LayerState, block: Block) -> None:
        keys, values = left["keys"], left["values"]
        if self.taps is not None:
            state["tail"] = ring_write(state["tail"], values[..., :-1].transpose(1, 2), block)
        if block.padding is not None:
            values = values.masked_fill(block.padding[..., None, None], 0)
        state["sums"] = state["sums"] + keys.permute(0, 2, 3, 1) @ values.transpose(1, 2)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        q, k, v = (part[:, 0] for part in self._project(x[:, None]))
        if self.is_taylor:
            o, _ = taylor_attention_step(q, k, v, state["sums"], eps=_EPS)
        else:
            positions = step.lengths[:, None]
            q, k = (self.feature_map(part[:, None], positions)[:, 0] for part in (q, k))
            o, _ = feature_attention_step(q, k, v, state["sums"], eps=_EPS)
        if self.taps is not None:
            o = o + self.taps.step(v, state["tail"], step)
        out: Tensor = self.out(o.flatten(1))
        return out
