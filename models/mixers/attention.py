"""Softmax attention as a mixer, with every kind of positions; its cache is a ring of keys and values."""

import math
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from recallfront.kernels.window_attention.operator import (
    alibi_slopes,
    attend_seen,
    step_bias,
    window_attention,
    window_attention_step,
)
from recallfront.models.configs.frozen import added_field
from recallfront.models.configs.mixer import MixerConfig, Projection, Rows
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.layers import Drawn, Linear, rotate
from recallfront.models.parts.lean import MixerStep, lean_add, lean_map, lean_rotation
from recallfront.models.parts.ring import ring_last, ring_write
from recallfront.models.parts.state import Block, LayerState, Layout, Step

T5_BUCKETS = 32  # of the T5 bias, a number each and head
_T5_DISTANCE = 128
_FIRST_CAPACITY = 64  # slots of a growing cache; it doubles when it is full


class AttentionConfig(MixerConfig):
    """Global softmax attention (arXiv:2108.12409 with positions='alibi')."""

    letter: ClassVar[str] = "A"

    mixer: Literal["attention"] = "attention"
    positions: Literal["alibi", "rope", "sinusoidal", "t5", "none"] = Field(
        default="alibi", description="How attention learns of positions."
    )
    num_kv_heads: int | None = Field(
        default=None,
        ge=1,
        description="Heads of keys and values; null is num_heads, 1 is multi-query attention.",
    )
    rotary_fraction: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of a head's dimensions, from the first on, that RoPE rotates.",
    )
    out_bias: bool = Field(
        default=False, description="Whether the output projection has a bias even if `biases` is false."
    )

    attention_dropout: float = added_field(
        0.0,
        ge=0,
        lt=1,
        description="Share of attention's weights that training sets to 0; it takes memory of length^2, on a CPU of "
        "length times window.",
    )

    @model_validator(mode="after")
    def _check_attention(self) -> Self:
        self._check_divides("num_kv_heads", self.kv_heads, "num_heads", self.num_heads)
        self._check_turned(self.rotary_dim)
        if self.adds_sinusoids and self.width % 2:
            raise ValueError(f"width is {self.width}; with positions='sinusoidal' it must be even")
        return self

    def build(self) -> "Attention":
        return Attention(self)

    @property
    def drops(self) -> bool:
        return self.attention_dropout > 0

    @property
    def visible(self) -> int | None:
        """Keys that a token sees, its own included; None: all."""
        return None

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def kv_width(self) -> int:
        """Numbers that one token leaves in the cache of one layer: its keys and values."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of a head that RoPE turns."""
        # 0.29 * 100 is below 29
        return int(self.rotary_fraction * self.head_dim + 1e-9) if self.positions == "rope" else 0

    @property
    def adds_sinusoids(self) -> bool:
        return self.positions == "sinusoidal"

    def matrix_entries(self) -> int:
        return self.width * (2 * self.width + self.kv_width)

    def parameters(self) -> int:
        biases = self.width + self.kv_width if self.biases else 0
        out_bias = self.width if self.biases or self.out_bias else 0
        table = T5_BUCKETS * self.num_heads if self.positions == "t5" else 0
        return self.matrix_entries() + biases + out_bias + table

    def mixing_flops(self, length: int) -> int:
        seen = min(self.visible or length, length)
        pairs = seen * (seen + 1) // 2 + (length - seen) * seen
        return 4 * self.width * pairs

    def product_flops(self, length: int) -> int:
        return self.mixing_flops(length)

    def state_elements(self, context_length: int) -> int:
        return self.kv_width * (
            context_length if self.visible is None else min(context_length, self.visible - 1)
        )

    @classmethod
    def keeping(cls, attention: MixerConfig) -> dict[str, Any]:
        assert isinstance(attention, AttentionConfig)
        kept = ("positions", "num_kv_heads", "rotary_fraction", "out_bias")
        return {name: getattr(attention, name) for name in kept}

    def must_agree(self, attention: MixerConfig) -> tuple[str, ...]:
        return ("positions", "rotary_dim", "kv_heads")

    def projection(self) -> Projection:
        shared = Rows(self.kv_heads, self.head_dim)
        return Projection("qkv", {"q": Rows(self.num_heads, self.head_dim), "k": shared, "v": shared})


def _bias_row(slopes: tuple[float, ...], slot: int, slots: int, filled: int, dtype: torch.dtype) -> Tensor:
    """Linear biases (H, filled) on a ring whose newest token lies in `slot`."""
    ages = (slot - torch.arange(filled)) % slots
    return -torch.tensor(slopes, dtype=dtype)[:, None] * ages


class T5Bias(Drawn):
    """A learned bias for each head and bucket of distances (arXiv:1910.10683 sec. 2.1), one table a layer.

    Distances below half the buckets have one each; beyond, buckets widen geometrically up to `_T5_DISTANCE`.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, T5_BUCKETS))

    def initialise(self, generator: Generator) -> None:
        nn.init.normal_(self.weight, std=0.02, generator=generator)

    def forward(self) -> Tensor:
        """Bias by distance (H, _T5_DISTANCE + 1); the last one holds for all that is further."""
        exact = T5_BUCKETS // 2
        distance = torch.arange(_T5_DISTANCE + 1, device=self.weight.device)
        growth = torch.log(distance.clamp(min=1) / exact) / math.log(_T5_DISTANCE / exact)
        bucket = (exact + (growth * (T5_BUCKETS - exact)).long()).clamp(max=T5_BUCKETS - 1)
        return self.weight[:, torch.where(distance < exact, distance, bucket)]


class Attention(Mixer):
    """Multi-head, grouped-query or multi-query attention."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        width, std, bias = config.width, config.width**-0.5, config.biases
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.kv_heads, config.head_dim
        self.window_size, self.dropout = config.visible, config.attention_dropout
        self.rotary_dim, self.rope_theta = config.rotary_dim, config.rope_theta
        self.slopes = alibi_slopes(self.heads) if config.positions == "alibi" else None
        self.t5_bias = T5Bias(self.heads) if config.positions == "t5" else None
        self.qkv = Linear(width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=bias, std=std)
        self.out = Linear(width, width, bias=bias or config.out_bias, std=std * config.out_scale)

    def _project(self, x: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, T, H, D) and k, v (B, T, H_kv, D), with positions turned in."""
        qkv: Tensor = self.qkv(x)
        qkv = qkv.view(*x.shape[:2], -1, self.head_dim)
        if self.rotary_dim:
            qk, v = torch.split(qkv, [self.heads + self.kv_heads, self.kv_heads], dim=2)
            qk = rotate(qk, positions, self.rotary_dim, longest, self.rope_theta)
            q, k = torch.split(qk, [self.heads, self.kv_heads], dim=2)
        else:
            q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], dim=2)
        return q, k, v

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None, *, dropout: float = 0.0
    ) -> Tensor:
        mixed = window_attention(
            q,
            k,
            v,
            window_size=self.window_size,
            alibi_slopes=self.slopes,
            distance_bias=None if self.t5_bias is None else self.t5_bias(),
            segments=segments,
            dropout=dropout,
        )
        out: Tensor = self.out(mixed.flatten(2))
        return out

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = self._project(x, layout.turns, layout.longest)
        return self._attend(q, k, v, layout.segments, dropout=self.dropout if self.training else 0.0)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        slots = _FIRST_CAPACITY if self.window_size is None else self.window_size
        shape = (batch_size, self.kv_heads, slots, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("keys", "values")}

    def live(self, state: LayerState, length: int) -> list[Tensor]:
        # the slot that the next token overwrites holds what no later token can see
        kept = length if self.window_size is None else min(length, self.window_size - 1)
        return [tensor[:, :, :kept] for tensor in state.values()]

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        positions: Tensor | int = block.longest if block.uniform else block.positions
        q, k, v = self._project(x, positions, block.longest + block.time)
        before = block.longest
        if self.window_size is not None:
            before = min(before, self.window_size - 1)
        segments = None
        if before:
            k_before, valid = ring_last(state["keys"], block, before)
            v_before, _ = ring_last(state["values"], block, before)
            k_all, v_all = (
                torch.cat([k_before.transpose(1, 2), k], dim=1),
                torch.cat([v_before.transpose(1, 2), v], dim=1),
            )
            if not block.uniform:  # rows that have seen less: what lies there belongs to no one
                segments = torch.cat([valid.long(), torch.ones_like(block.positions)], dim=1)
        else:
            k_all, v_all = k, v
        out = self._attend(q, k_all, v_all, segments)
        self._store(state, k.transpose(1, 2), v.transpose(1, 2), block)
        return out

    def _store(self, state: LayerState, k: Tensor, v: Tensor, block: Block) -> None:
        """Put the block's keys and values (B, H_kv, T, D) where the coming tokens find them."""
        if self.window_size is None:
            self._reserve(state, block.longest + block.time)
        state["keys"] = ring_write(state["keys"], k, block)
        state["values"] = ring_write(state["values"], v, block)

    def reserve(self, state: LayerState, tokens: int) -> None:
        if self.window_size is None and tokens > state["keys"].shape[2]:
            self._grow(state, tokens)

    @staticmethod
    def _reserve(state: LayerState, needed: int) -> None:
        """Grow the cache by doubling, so that no token pays for copying all before it."""
        slots = state["keys"].shape[2]
        if needed > slots:
            Attention._grow(state, max(needed, 2 * slots))

    @staticmethod
    def _grow(state: LayerState, slots: int) -> None:
        for name, old in state.items():
            new = old.new_zeros(*old.shape[:2], slots, old.shape[3])
            new[:, :, : old.shape[2]] = old
            state[name] = new

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        positions: Tensor | int = step.longest if step.uniform else step.lengths[:, None]
        q, k, v = self._project(x[:, None], positions, step.longest + 1)
        keys, values = state["keys"], state["values"]
        if self.window_size is None:
            self._reserve(state, step.longest + 1)
            keys, values = (state[name][:, :, : step.longest + 1] for name in ("keys", "values"))
        bias = step.once(
            ("bias", keys.shape[2], self.slopes, x.dtype, self.t5_bias),
            lambda: self._step_bias(step.lengths, keys.shape[2], x.dtype),
        )
        mixed = window_attention_step(q[:, 0], k[:, 0], v[:, 0], keys, values, step.lengths, bias=bias)
        out: Tensor = self.out(mixed.flatten(1))
        return out

    def lean_step(self) -> MixerStep:
        """Where every row is at the same position its slot is known, and what is empty is cut off."""
        plain = super().lean_step()
        if self.t5_bias is not None:
            return plain
        project, out, turn = (
            lean_map(self.qkv),
            lean_add(self.out),
            lean_rotation(self.rotary_dim, self.rope_theta),
        )
        heads, kv_heads, head_dim, slopes = self.heads, self.kv_heads, self.head_dim, self.slopes
        sizes, growing = (heads, kv_heads, kv_heads), self.window_size is None
        attend = F.scaled_dot_product_attention

        def run(residual: Tensor, x: Tensor, state: LayerState, step: Step) -> None:
            if not step.uniform:
                plain(residual, x, state, step)
                return
            qkv = project(x).view(len(x), -1, head_dim)
            if turn is not None:
                turn(qkv[:, : heads + kv_heads], step)
            q, k, v = qkv.split(sizes, 1)
            if growing and step.longest >= state["keys"].shape[2]:
                with torch.inference_mode(False):  # the new cache outlives the step
                    self._reserve(state, step.longest + 1)
            keys, values = state["keys"], state["values"]
            slots = keys.shape[2]
            slot, filled = step.longest % slots, min(step.longest + 1, slots)
            keys[:, :, slot] = k
            values[:, :, slot] = v
            if filled < slots:
                keys, values = keys[:, :, :filled], values[:, :, :filled]
            bias = None
            if slopes is not None:
                row = step.once(
                    ("row", slots, slopes), lambda: _bias_row(slopes, slot, slots, filled, q.dtype)
                )
                bias = row.view(1, kv_heads, -1, filled)
            # query heads that share a key head are that head's queries: no key is copied
            mixed = attend(q.unflatten(1, (kv_heads, -1)), keys, values, attn_mask=bias)
            out(residual, mixed.reshape(len(x), -1))

        return run

    can_branch = True

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> tuple[Tensor, LayerState]:
        block, nodes = branches.block, x.shape[1]
        q, k, v = self._project(x, branches.positions, block.longest + nodes)
        before = block.longest if self.window_size is None else min(block.longest, self.window_size - 1)
        k_before, there = ring_last(state["keys"], block, before)
        v_before, _ = ring_last(state["values"], block, before)
        distance, seen = block.once(
            ("seen", before, self.window_size), lambda: branches.seen(there, self.window_size)
        )
        out = attend_seen(
            q,
            torch.cat([k_before.transpose(1, 2), k], dim=1),
            torch.cat([v_before.transpose(1, 2), v], dim=1),
            distance,
            seen,
            alibi_slopes=self.slopes,
            distance_bias=None if self.t5_bias is None else self.t5_bias(),
        )
        return self.out(out.flatten(2)), {"k": k, "v": v}

    def follow(self, left: LayerState, state: LayerState, block: Block) -> None:
        self._store(state, left["k"].transpose(1, 2), left["v"].transpose(1, 2), block)

    def _step_bias(self, lengths: Tensor, slots: int, dtype: torch.dtype) -> Tensor:
        """Bias of one step over a ring, the same for all layers without a table of their own."""
        learned = None if self.t5_bias is None else self.t5_bias()
        return step_bias(lengths, slots, dtype, alibi_slopes=self.slopes, distance_bias=learned)
