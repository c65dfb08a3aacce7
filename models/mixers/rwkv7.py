"""RWKV-7 (arXiv:2503.14456): time mixing with a generalized delta rule and vector-valued gates."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from recallfront.kernels.common.chunks import normalised
from recallfront.kernels.generalized_delta_rule.operator import (
    generalized_delta_rule,
    generalized_delta_rule_step,
)
from recallfront.models.configs.mixer import MixerConfig, Projection, Rows
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.layers import Drawn, Linear
from recallfront.models.parts.state import Block, LayerState, Layout, Step

_LARGEST_DECAY = math.exp(-0.5)  # of -log w (arXiv:2503.14456 sec. 4)
_STREAMS = 6  # receptance, decay, key, value, rate and gate: each reads its own mixture of two tokens
# the authors start many vectors by the layer's place in the model; a mixer knows none and starts as the middle one
_DEPTH = 0.5


class RWKV7Config(MixerConfig):
    """RWKV-7's time mixing (arXiv:2503.14456): a generalized delta rule with vector-valued gates, token shift.

    The paper's value residual, which mixes the first layer's values into every other's, crosses layers and is left
    out: each layer's values are its own, as the paper's first layer has them.
    """

    letter: ClassVar[str] = "V"

    mixer: Literal["rwkv7"] = "rwkv7"
    decay_rank: int | None = Field(
        default=None, ge=1, description="Rank of the map that gives decays; null follows from the width."
    )
    rate_rank: int | None = Field(
        default=None,
        ge=1,
        description="Rank of the map that gives in-context learning rates; null follows from the width.",
    )
    gate_rank: int | None = Field(
        default=None, ge=1, description="Rank of the map that gives the gate; null follows from the width."
    )

    def build(self) -> "TimeMixing":
        return TimeMixing(self)

    @property
    def ranks(self) -> tuple[int, int, int]:
        """Of decay, rate and gate."""
        return (
            self.decay_rank or self._rank(2.5),
            self.rate_rank or self._rank(2.5),
            self.gate_rank or self._rank(5),
        )

    def _rank(self, factor: float) -> int:
        """A multiple of 32, by the square root of the width: the authors' suggestion."""
        return max(1, round(factor * math.sqrt(self.width) / 32)) * 32

    def matrix_entries(self) -> int:
        return 4 * self.width**2 + 2 * self.width * sum(self.ranks)

    def parameters(self) -> int:
        # shifts; biases of decay and rate; removal and replacement keys, bonus; the norm's gain and bias
        vectors = _STREAMS + 2 + 3 + 2 + (4 if self.biases else 0)
        return self.matrix_entries() + vectors * self.width

    def mixing_flops(self, length: int) -> int:
        # each entry of the state decays, is read for the correction, corrected, added to, and read
        return length * 5 * 2 * self.width * self.head_dim

    def state_elements(self, context_length: int) -> int:
        return self.width * self.head_dim + self.width

    def projection(self) -> Projection:
        # receptance and key read other mixtures of two tokens than the values do, so they have maps of their own
        return Projection("value", {"v": Rows(self.num_heads, self.head_dim)})


class Streams(NamedTuple):
    """What the recurrence reads, (..., H, D) each but the gate (..., width)."""

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    log_decay: Tensor
    gate: Tensor

    @property
    def recurrent(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All but the gate, as the operator takes them."""
        return self[:-1]


class TokenShift(Drawn):
    """x + (previous - x) * mu for each stream, mu from 0 in the first dimension towards 1."""

    powers = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.empty(_STREAMS * width))

    def initialise(self, generator: Generator) -> None:
        place = torch.arange(len(self.mix) // _STREAMS, dtype=torch.float64)
        place = place / len(place)
        with torch.no_grad():
            self.mix.copy_(torch.cat([1 - place ** (power * (1 - _DEPTH)) for power in self.powers]))

    def forward(self, x: Tensor, previous: Tensor) -> tuple[Tensor, ...]:
        mix = self.mix.unflatten(0, (_STREAMS, -1))
        mixed = torch.addcmul(x[..., None, :], (previous - x)[..., None, :], mix)
        return mixed.unbind(-2)


class Vectors(Drawn):
    """Numbers a dimension that no matrix holds, started as the authors' code does."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.decay = nn.Parameter(torch.empty(width))
        self.rate = nn.Parameter(torch.empty(width))
        self.removal = nn.Parameter(torch.empty(width))
        self.replacement = nn.Parameter(torch.empty(width))
        self.bonus = nn.Parameter(torch.empty(width))

    def initialise(self, generator: Generator) -> None:
        width = len(self.decay)
        place = torch.arange(width, dtype=torch.float64)
        ramp = place / max(width - 1, 1)
        middle = max((self.head_dim - 1) / 2, 0.5)
        zigzag = (place % self.head_dim - (self.head_dim - 1) / 2) / middle
        zigzag = zigzag * zigzag.abs()
        with torch.no_grad():
            self.decay.copy_(-6 + 6 * ramp ** (1 + _DEPTH**0.3) + 0.5 + 2.5 * zigzag)
            self.rate.copy_(-0.19 + 0.3 * zigzag + 0.4 * (ramp - 0.5))
            self.removal.copy_(0.71 - 0.1 * (ramp - 0.5))
            self.replacement.fill_(1.02)
            self.bonus.fill_(-0.04)


class LowRank(nn.Module):
    """W2 f(W1 x), from 0 or from f(0) alone: W1 starts at 0."""

    def __init__(self, width: int, rank: int, activation: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.activation = activation
        self.down = Linear(width, rank, std=0.0)
        # as large as the authors' orthogonal one, of gain 0.1
        self.up = Linear(rank, width, std=0.1 * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(x)
        out: Tensor = self.up(hidden if self.activation is None else self.activation(hidden))
        return out


class HeadNorm(Drawn):
    """Layer normalisation of each head, with gain and bias a dimension; eps as the authors', 1e-5 a dimension."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.eps = heads, 1e-5 * width / heads
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def initialise(self, generator: Generator) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., H, D) -> (..., H D)."""
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias, normed.flatten(-2), self.weight)


class TimeMixing(Mixer):
    """W_o (g * (norm(y) + (r . (rho * k)) v)), y the generalized delta rule's (arXiv:2503.14456 sec. 4)."""

    def __init__(self, config: RWKV7Config) -> None:
        super().__init__()
        self.config = config
        width, std = config.width, config.width**-0.5
        decay_rank, rate_rank, gate_rank = config.ranks
        self.shift = TokenShift(width)
        self.vectors = Vectors(width, config.head_dim)
        self.receptance = Linear(width, width, bias=config.biases, std=std)
        self.key = Linear(width, width, bias=config.biases, std=0.1 * std)
        self.value = Linear(width, width, bias=config.biases, std=std)
        self.decay = LowRank(width, decay_rank, torch.tanh)
        self.rate = LowRank(width, rate_rank)
        self.gate = LowRank(width, gate_rank, torch.sigmoid)
        self.norm = HeadNorm(width, config.num_heads)
        self.out = Linear(width, width, bias=config.biases, std=0.0)

    def _read(self, x: Tensor, previous: Tensor) -> Streams:
        """x and the token before it, (..., width) each."""
        for_r, for_w, for_k, for_v, for_a, for_g = self.shift(x, previous)
        vectors, heads = self.vectors, self.config.num_heads
        wide = torch.promote_types(x.dtype, torch.float32)
        log_decay = -_LARGEST_DECAY * torch.sigmoid(self.decay(for_w).to(wide) + vectors.decay)
        rate = torch.sigmoid(self.rate(for_a) + vectors.rate)
        key: Tensor = self.key(for_k)
        removal = normalised((key * vectors.removal).unflatten(-1, (heads, -1)))
        replacement = (key * (1 + (rate - 1) * vectors.replacement)).to(key.dtype)
        r, k, v, rate, log_decay = (
            part.unflatten(-1, (heads, -1))
            for part in (self.receptance(for_r), replacement, self.value(for_v), rate, log_decay)
        )
        return Streams(r, k, v, -removal, rate * removal, log_decay, self.gate(for_g))

    def _finish(self, o: Tensor, streams: Streams) -> Tensor:
        """Norm, bonus, gate and way out of o (..., H, D)."""
        bonus = self.vectors.bonus.unflatten(0, (self.config.num_heads, -1))
        own = (streams.q * bonus * streams.k).sum(-1, keepdim=True) * streams.v
        out: Tensor = self.out((self.norm(o) + own.flatten(-2)) * streams.gate)
        return out

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        previous = F.pad(x[:, :-1], (0, 0, 1, 0))
        if layout.starts is not None:
            previous = previous.masked_fill(layout.starts[..., None], 0)
        streams = self._read(x, previous)
        o = layout.by_document(
            lambda *parts: generalized_delta_rule(*parts, scale=1.0)[0], *streams.recurrent
        )
        return self._finish(o, streams)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        config = self.config
        shape = (batch_size, config.num_heads, config.head_dim, config.head_dim)
        return {
            "matrix": torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32)),
            "previous": torch.zeros(batch_size, 1, config.width, device=device, dtype=dtype),
        }

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        history = torch.cat([state["previous"], x], dim=1)
        streams = self._read(x, history[:, :-1])
        q, k, v, a, b, log_decay = streams.recurrent
        if block.padding is not None:
            padding = block.padding[..., None, None]
            k, a, log_decay = (part.masked_fill(padding, 0) for part in (k, a, log_decay))
        o, state["matrix"] = generalized_delta_rule(
            q, k, v, a, b, log_decay, scale=1.0, initial_state=state["matrix"]
        )
        state["previous"] = block.last(history, 1).clone()
        return self._finish(o, streams)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        streams = self._read(x, state["previous"][:, 0])
        state["previous"].copy_(x[:, None])
        o, _ = generalized_delta_rule_step(*streams.recurrent, state["matrix"], scale=1.0)
        return self._finish(o, streams)
