"""Grouped, augmented linear attention as a mixer (arXiv:2406.07368), with a state of constant size."""

from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from recallfront.kernels.common.chunks import normalised
from recallfront.kernels.grouped_attention.operator import (
    grouped_attention,
    grouped_attention_step,
    grouped_attention_tree,
)
from recallfront.kernels.grouped_attention.pytorch import grouped_mix
from recallfront.models.configs.mixer import MixerConfig, Projection, Rows
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.head_taps import HeadTaps
from recallfront.models.parts.layers import Drawn, Linear, rotate
from recallfront.models.parts.ring import ring_tokens, ring_write
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class GroupedConfig(MixerConfig):
    """Grouped linear attention with a masked convolution on the values."""

    letter: ClassVar[str] = "G"

    mixer: Literal["grouped"] = "grouped"
    group_size: int = Field(default=16, ge=1, description="Tokens of a group, which attend to each other.")
    conv_size: int = Field(
        default=32,
        ge=0,
        description="Taps of the convolution on the values, one filter per head; 0 means no augmentation.",
    )
    positions: Literal["rope", "none"] = Field(
        default="none", description="How attention learns of positions."
    )
    cross_scale_init: float = Field(
        default=0.0, description="Initial value of the learned scale of the part across groups."
    )

    @model_validator(mode="after")
    def _check_grouped(self) -> Self:
        self._check_turned(self.rotary_dim)
        return self

    def build(self) -> "GroupedAttention":
        return GroupedAttention(self)

    @property
    def rotary_dim(self) -> int:
        return self.head_dim if self.positions == "rope" else 0

    def matrix_entries(self) -> int:
        return 4 * self.width * self.width

    def parameters(self) -> int:
        biases = 4 * self.width if self.biases else 0
        return self.matrix_entries() + biases + 1 + self.conv_size * self.num_heads

    def product_flops(self, length: int) -> int:
        full, rest = divmod(length, self.group_size)
        pairs = (full * self.group_size * (self.group_size + 1) + rest * (rest + 1)) // 2
        return 4 * self.width * (pairs + length * self.head_dim)

    def mixing_flops(self, length: int) -> int:
        return self.product_flops(length) + 2 * length * self.conv_size * self.width

    def state_elements(self, context_length: int) -> int:
        group = 2 * min(context_length, self.group_size - 1)
        tail = max(self.conv_size - 1, 0)
        return self.num_heads * self.head_dim * (self.head_dim + group + tail)

    @classmethod
    def keeping(cls, attention: MixerConfig) -> dict[str, Any]:
        turns_all = getattr(attention, "rotary_dim", 0) == attention.head_dim
        return {"positions": "rope" if turns_all else "none"}

    def must_agree(self, attention: MixerConfig) -> tuple[str, ...]:
        return ("rotary_dim",) if self.positions == "rope" == getattr(attention, "positions", None) else ()

    def projection(self) -> Projection:
        return Projection("qkv", dict.fromkeys("qkv", Rows(self.num_heads, self.head_dim)))


class CrossScale(Drawn):
    """The learned scale of the part across groups."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(1))  # one element: DeepSpeed broadcasts no 0-d tensors

    def initialise(self, generator: Generator) -> None:
        nn.init.constant_(self.weight, self.start)


class GroupedAttention(Mixer):
    """Squared-ReLU attention inside groups of tokens, linear attention to all groups before, convolution on
    values.
    """

    def __init__(self, config: GroupedConfig) -> None:
        super().__init__()
        width, std, bias = config.width, config.width**-0.5, config.biases
        self.heads, self.head_dim = config.num_heads, config.head_dim
        self.group_size, self.rotary_dim = config.group_size, config.rotary_dim
        self.rope_theta = config.rope_theta
        self.qkv = Linear(width, 3 * width, bias=bias, std=std)
        self.cross_scale = CrossScale(config.cross_scale_init)
        self.taps = HeadTaps(self.heads, config.conv_size) if config.conv_size else None
        self.out = Linear(width, width, bias=bias, std=std * config.out_scale)

    def _project(self, x: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, T, H, D), with positions turned in."""
        qkv: Tensor = self.qkv(x)
        qkv = qkv.view(*x.shape[:2], 3 * self.heads, self.head_dim)
        if not self.rotary_dim:
            q, k, v = qkv.split(self.heads, dim=2)
            return q, k, v
        qk, v = torch.split(qkv, [2 * self.heads, self.heads], dim=2)
        q, k = rotate(qk, positions, self.rotary_dim, longest, self.rope_theta).split(self.heads, dim=2)
        return q, k, v

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Texts from their beginning on."""
        whole = partial(
            grouped_attention,
            group_size=self.group_size,
            conv_taps=None if self.taps is None else self.taps.weight,
            cross_scale=self.cross_scale.weight,
        )
        return layout.by_document(whole, q, k, v)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        mixed = self._whole(*self._project(x, layout.turns, layout.longest), layout)
        out: Tensor = self.out(mixed.flatten(2))
        return out

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        wide = torch.promote_types(dtype, torch.float32)
        sizes = {"sums": self.head_dim, "keys": self.group_size, "values": self.group_size}
        if self.taps is not None:
            sizes["tail"] = self.taps.weight.shape[1]
        shape = (batch_size, self.heads)
        return {
            name: torch.zeros(*shape, size, self.head_dim, device=device, dtype=wide)
            for name, size in sizes.items()
        }

    def live(self, state: LayerState, length: int) -> list[Tensor]:
        # one slot of each ring is the next token's: what lies there is in the sums already, or out of reach
        kept = min(length, self.group_size - 1)
        tail = HeadTaps.live(state["tail"]) if "tail" in state else []
        return [state["sums"], state["keys"][:, :, :kept], state["values"][:, :, :kept], *tail]

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        positions: Tensor | int = block.longest if block.uniform else block.positions
        q, k, v = self._project(x, positions, block.longest + block.time)
        dtype, given = state["sums"].dtype, (q, k, v)
        q, k, v = normalised(q.to(dtype)), normalised(k.to(dtype)), v.to(dtype)
        if block.longest == 0:
            out = self._whole(*given, Layout(None, block.time))  # nothing before
            if self.taps is not None:
                state["tail"] = ring_write(state["tail"], v.transpose(1, 2), block)
        else:
            out = self._mix(q, k, v, state, block)
            if self.taps is not None:
                mixed, state["tail"] = self.taps.extend(v, state["tail"], block)
                out = out + mixed
        self._store(state, k.transpose(1, 2), v.transpose(1, 2), block)
        y: Tensor = self.out(out.flatten(2).to(x.dtype))
        return y

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, state: LayerState, block: Block) -> Tensor:
        """The parallel form on the tokens that have begun the current group, followed by the block's."""
        begun = block.offsets % self.group_size  # (B,)
        slots = torch.arange(self.group_size, device=q.device)
        # what the ring still holds of the group before belongs to the sums here
        earlier = (slots > begun[:, None])[:, None, :, None]
        sums = state["sums"] + (state["keys"] * earlier).transpose(-1, -2) @ state["values"]
        longest_begun = block.longest % self.group_size if block.uniform else self.group_size - 1
        if longest_begun == 0:
            return grouped_mix(q, k, v, self.group_size, self.cross_scale.weight, sums)
        rows = torch.arange(len(begun), device=q.device)[:, None]
        target = begun[:, None] + torch.arange(block.time, device=q.device)
        room = (len(begun), longest_begun + block.time, self.heads, self.head_dim)
        started = (slots < begun[:, None])[:, :longest_begun, None, None]

        def placed(new: Tensor, ring: Tensor | None) -> Tensor:
            whole = new.new_zeros(room)
            if ring is not None:
                whole[:, :longest_begun] = ring.transpose(1, 2)[:, :longest_begun] * started
            whole[rows, target] = new
            return whole

        out = grouped_mix(
            placed(q, None),
            placed(k, state["keys"]),
            placed(v, state["values"]),
            self.group_size,
            self.cross_scale.weight,
            sums,
        )
        return out[rows, target]

    def _store(self, state: LayerState, k: Tensor, v: Tensor, block: Block) -> None:
        """Fold what has left the rings into the sums, and put the block's last tokens in."""
        gone = block.ends[:, None] - self.group_size  # tokens up to this one are in the sums
        tokens, there = ring_tokens(block.offsets, self.group_size)
        live = there & (tokens > block.offsets[:, None] - self.group_size)
        old = (live & (tokens <= gone))[:, None, :, None]
        new = (block.positions <= gone)[:, None, :, None]
        state["sums"] = (
            state["sums"]
            + (state["keys"] * old).transpose(-1, -2) @ state["values"]
            + (k * new).transpose(-1, -2) @ v
        )
        state["keys"] = ring_write(state["keys"], k, block)
        state["values"] = ring_write(state["values"], v, block)

    can_branch = True

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> tuple[Tensor, LayerState]:
        q, k, v = self._project(x, branches.positions, branches.block.longest + x.shape[1])
        out = grouped_attention_tree(
            q,
            k,
            v,
            state["sums"],
            state["keys"],
            state["values"],
            branches.block.offsets,
            branches.positions,
            branches.mask,
            cross_scale=self.cross_scale.weight,
            tail=state.get("tail"),
            conv_taps=None if self.taps is None else self.taps.weight,
        )
        return self.out(out.flatten(2)), {"k": k, "v": v}

    def follow(self, left: LayerState, state: LayerState, block: Block) -> None:
        k, v = (part.to(state["sums"].dtype).transpose(1, 2) for part in (left["k"], left["v"]))
        if self.taps is not None:
            state["tail"] = ring_write(state["tail"], v, block)
        self._store(state, normalised(k), v, block)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        positions: Tensor | int = step.longest if step.uniform else step.lengths[:, None]
        q, k, v = self._project(x[:, None], positions, step.longest + 1)
        out = grouped_attention_step(
            q[:, 0],
            k[:, 0],
            v[:, 0],
            state["sums"],
            state["keys"],
            state["values"],
            step.lengths,
            cross_scale=self.cross_scale.weight,
            tail=state.get("tail"),
            conv_taps=None if self.taps is None else self.taps.weight,
        )
        mixed: Tensor = self.out(out.flatten(1))
        return mixed
