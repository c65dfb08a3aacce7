"""What mixers have in common whose heads each carry a matrix that decays, is added to, or is corrected.

All share one shape: projections, a short convolution, a recurrence, a norm a head, a gate and a projection back. They
differ in where the decay comes from and in whether the delta rule is used; a file beside this one says so for each.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from recallfront.kernels.common.chunks import normalised
from recallfront.kernels.gated_delta_rule.operator import gated_delta_rule, gated_delta_rule_step
from recallfront.kernels.gated_linear_attention.operator import (
    gated_linear_attention,
    gated_linear_attention_step,
)
from recallfront.models.configs.mixer import MixerConfig, Projection, Rows
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.convolution import ConvTaps
from recallfront.models.parts.gating import gated
from recallfront.models.parts.layers import Drawn, Linear, RMSNorm
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class MatrixStateConfig(MixerConfig):
    """Knobs of a layer whose heads each carry a matrix: `state_dim` rows (keys) by the value width of a head."""

    letter: ClassVar[str] = "S"
    is_gated: ClassVar[bool] = True  # whether a gate stands before the projection back
    state_passes: ClassVar[int] = 3  # multiply-adds of a token with each entry: it decays, adds and reads

    state_dim: int | None = Field(
        default=None, ge=1, description="Rows of each head's state; null is width / num_heads."
    )
    value_expansion: int = Field(
        default=1, ge=1, description="Width of all heads' values together over the model's width."
    )
    conv_size: int = Field(
        default=1, ge=1, description="Taps of the convolution after the projections; 1 is none."
    )

    @property
    def keys(self) -> int:
        return self.state_dim or self.head_dim

    @property
    def values(self) -> int:
        """Width of one head's values."""
        return self.value_expansion * self.head_dim

    @property
    def inner(self) -> int:
        """Width of all values together."""
        return self.num_heads * self.values

    @property
    def key_heads(self) -> int:
        """Heads that have queries and keys of their own."""
        return self.num_heads

    @property
    def conv_channels(self) -> int:
        """What the convolution runs over: queries, keys and values of all heads."""
        return 2 * self.key_heads * self.keys + self.inner

    @property
    def norm_width(self) -> int:
        return self.values

    def decay_matrix(self) -> int:
        """Entries of the matrices that a token's decay and step size come from."""
        return 0

    def vectors(self) -> int:
        """Parameters that are in no matrix, beside the convolution's and the norm's."""
        return 0

    def matrix_entries(self) -> int:
        ways = 2 if self.is_gated else 1
        return self.width * (self.conv_channels + ways * self.inner) + self.decay_matrix()

    def parameters(self) -> int:
        taps = (self.conv_size + 1) * self.conv_channels if self.conv_size > 1 else 0
        biases = self.conv_channels + self.width if self.biases else 0
        return self.matrix_entries() + biases + taps + self.norm_width + self.vectors()

    def mixing_flops(self, length: int) -> int:
        convolution = 2 * self.conv_size * self.conv_channels if self.conv_size > 1 else 0
        return length * (self.state_passes * 2 * self.inner * self.keys + convolution)

    def state_elements(self, context_length: int) -> int:
        return self.inner * self.keys + (self.conv_size - 1) * self.conv_channels

    @classmethod
    def keeping(cls, attention: MixerConfig) -> dict[str, Any]:
        """Heads as wide as attention's, each with its own keys."""
        return {"value_expansion": 1, "state_dim": None}

    def projection(self) -> Projection:
        keys = Rows(self.key_heads, self.keys)
        return Projection("qkv", {"q": keys, "k": keys, "v": Rows(self.num_heads, self.values)})

    def hindrance(self) -> str:
        return (
            f"value_expansion is {self.value_expansion}, with 1 values and the way out fit; keys are "
            f"{self.key_heads} x {self.keys} wide, queries and keys fit as {self.num_heads} x {self.head_dim}"
        )


class MatrixState(Mixer):
    """All but the recurrence itself, and what is done to queries and keys before it."""

    def __init__(self, config: MatrixStateConfig) -> None:
        super().__init__()
        self.config = config
        width, inner, std = config.width, config.inner, config.width**-0.5
        self.heads, self.key_width = config.num_heads, config.key_heads * config.keys
        self.qkv = Linear(width, config.conv_channels, bias=config.biases, std=std)
        self.gate = Linear(width, inner, std=std) if config.is_gated else None
        self.out = Linear(inner, width, bias=config.biases, std=inner**-0.5 * config.out_scale)
        self.norm = RMSNorm(config.norm_width)
        convolves = config.conv_size > 1
        self.conv = ConvTaps(config.conv_channels, config.conv_size, activation="silu") if convolves else None

    @abstractmethod
    def streams(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """What the recurrence takes (..., H, ...), of q, k (..., H, K), v (..., H, V) and the layer's input x
        (..., width), which decays come from. Zeros leave the matrix as it is.
        """

    @abstractmethod
    def recur(self, streams: tuple[Tensor, ...], state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The recurrence over a block, streams (B, T, H, ...): o (B, T, H, V) and the matrix after it.

        Calls no module (see `Layout.by_document`): what comes from modules belongs in `streams`.
        """

    @abstractmethod
    def recur_step(self, streams: tuple[Tensor, ...], state: Tensor) -> Tensor:
        """One token, streams (B, H, ...): o (B, H, V); the matrix is updated in place."""

    def prepare(self, q: Tensor, k: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, T, key heads, K) as the recurrence takes them, a head each."""
        return q, k

    def finish(self, x: Tensor, o: Tensor, v: Tensor) -> Tensor:
        """Norm, gate and projection of o (..., H, V)."""
        o = self.norm(o).flatten(-2)
        out: Tensor = self.out(o if self.gate is None else gated(self.gate(x), o, "silu"))
        return out

    def _split(self, qkv: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (..., H, K) and v (..., H, V) of what the convolution gave (B, T, channels)."""
        config = self.config
        q, k, v = torch.split(qkv, [self.key_width, self.key_width, config.inner], dim=-1)
        v = v.reshape(*v.shape[:2], self.heads, config.values)
        q, k = (x.reshape(*x.shape[:2], config.key_heads, config.keys) for x in (q, k))
        q, k = self.prepare(q, k, positions, longest)
        return q, k, v

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        qkv: Tensor = self.qkv(x)
        if self.conv is not None:
            qkv = self.conv(qkv, layout)
        q, k, v = self._split(qkv, layout.turns, layout.longest)
        o = layout.by_document(lambda *streams: self.recur(streams, None)[0], *self.streams(x, q, k, v))
        return self.finish(x, o, v)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        shape = (batch_size, self.heads, self.config.keys, self.config.values)
        state = {"matrix": torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))}
        if self.conv is not None:
            state["conv"] = self.conv.init_state(batch_size, device, dtype)
        return state

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        qkv: Tensor = self.qkv(x)
        if self.conv is not None:
            qkv, state["conv"] = self.conv.extend(qkv, state["conv"], block)
        positions: Tensor | int = block.longest if block.uniform else block.positions
        q, k, v = self._split(qkv, positions, block.longest + block.time)
        streams = self.streams(x, q, k, v)
        if block.padding is not None:
            streams = tuple(without(block.padding, part) for part in streams)
        o, state["matrix"] = self.recur(streams, state["matrix"])
        return self.finish(x, o, v)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        qkv: Tensor = self.qkv(x)
        if self.conv is not None:
            qkv, state["conv"] = self.conv.step(qkv, state["conv"])
        positions: Tensor | int = step.longest if step.uniform else step.lengths[:, None]
        q, k, v = (part[:, 0] for part in self._split(qkv[:, None], positions, step.longest + 1))
        return self.finish(x, self.recur_step(self.streams(x, q, k, v), state["matrix"]), v)


class DecayingSum(MatrixState):
    """S_t = decay_t S_{t-1} + k_t v_t^T, read by q_t."""

    scale: ClassVar[float | None] = None  # of the queries; None: 1 / sqrt(K)

    @abstractmethod
    def decay(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Log decay (..., H) or (..., H, K), and the values as they enter the state."""

    def streams(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        log_decay, entering = self.decay(x, v)
        return q, k, entering, log_decay

    def recur(self, streams: tuple[Tensor, ...], state: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k, v, log_decay = streams
        return gated_linear_attention(q, k, v, log_decay, scale=self.scale, initial_state=state)

    def recur_step(self, streams: tuple[Tensor, ...], state: Tensor) -> Tensor:
        q, k, v, log_decay = streams
        return gated_linear_attention_step(q, k, v, log_decay, state, scale=self.scale)[0]


class DeltaRule(MatrixState):
    """What a key has stored is replaced, by a share beta_t, by the new value; keys and queries have length 1."""

    def __init__(self, config: MatrixStateConfig) -> None:
        super().__init__(config)
        self.beta = Linear(config.width, config.num_heads, std=config.width**-0.5)

    def decay(self, x: Tensor) -> Tensor | None:
        """Log decay (..., H); None: nothing decays."""
        return None

    def prepare(self, q: Tensor, k: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor]:
        return normalised(q), normalised(k)

    def streams(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        log_decay, beta = self.decay(x), torch.sigmoid(self.beta(x))
        return (q, k, v, beta) if log_decay is None else (q, k, v, beta, log_decay)

    def recur(self, streams: tuple[Tensor, ...], state: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k, v, beta, *decay = streams
        return gated_delta_rule(q, k, v, beta, *decay, initial_state=state)

    def recur_step(self, streams: tuple[Tensor, ...], state: Tensor) -> Tensor:
        q, k, v, beta, *decay = streams
        return gated_delta_rule_step(q, k, v, beta, decay[0] if decay else None, state)[0]


def without(padding: Tensor, x: Tensor) -> Tensor:
    """x (B, T, ...) with zeros where a token does not count."""
    return x.masked_fill(padding.view(*padding.shape, *(1 for _ in x.shape[2:])), 0)


class SelectiveDecay(Drawn):
    """log decay = -A * dt with dt = softplus(W x + b), a number a head (arXiv:2405.21060 sec. 7)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width))
        self.bias = nn.Parameter(torch.empty(heads))
        self.log_rate = nn.Parameter(torch.empty(heads))

    def initialise(self, generator: Generator) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5, generator=generator)
        nn.init.uniform_(self.log_rate, 1, 16, generator=generator)
        with torch.no_grad():
            self.log_rate.log_()
            # dt starts log-uniform between 0.001 and 0.1; the bias is its inverse softplus
            low, high = torch.tensor([1e-3, 1e-1]).log()
            uniform = torch.rand(self.bias.shape, generator=generator)
            dt = torch.exp(low + uniform * (high - low))
            self.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log decay and dt (..., H), in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        logits = F.linear(x, self.weight).to(wide) + self.bias
        dt = torch.logaddexp(logits, logits.new_zeros(()))  # softplus
        return -torch.exp(self.log_rate.to(wide)) * dt, dt
