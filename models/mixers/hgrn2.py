"""HGRN2 (arXiv:2404.07904): a gated linear recurrence whose keys are what its forget gates let go."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from recallfront.kernels.gated_linear_attention.operator import (
    gated_linear_attention,
    gated_linear_attention_step,
)
from recallfront.models.configs.mixer import MixerConfig, Projection, Rows
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.layers import Drawn, Linear, RMSNorm
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class HGRN2Config(MixerConfig):
    """HGRN2 (arXiv:2404.07904): forget gates above a learned bound, which are the decay and, less 1, the key.

    In the paper the bounds grow from layer to layer, from 0 in the first. A mixer knows nothing of the layers around
    it: `lower_bound` is where its own learned bounds start; a hybrid may declare several, each with a bound of its own.
    """

    letter: ClassVar[str] = "H"

    mixer: Literal["hgrn2"] = "hgrn2"
    state_dim: int | None = Field(
        default=None, ge=1, description="Rows of each head's state; null is width / num_heads."
    )
    lower_bound: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Initial value of the forget gates' learned lower bounds; 0 is none (the paper's first layer).",
    )

    def build(self) -> "HGRN2":
        return HGRN2(self)

    @property
    def keys(self) -> int:
        return self.state_dim or self.head_dim

    def matrix_entries(self) -> int:
        return 2 * self.width * (self.num_heads * self.keys + self.width)

    def parameters(self) -> int:
        gates = self.num_heads * self.keys
        bounds, biases = gates if self.lower_bound else 0, 2 * (gates + self.width) if self.biases else 0
        return self.matrix_entries() + bounds + biases + self.width

    def mixing_flops(self, length: int) -> int:
        # each entry of the state decays, is added to, and read
        return length * 3 * 2 * self.width * self.keys

    def state_elements(self, context_length: int) -> int:
        return self.width * self.keys

    def projection(self) -> Projection:
        gates, values = Rows(self.num_heads, self.keys), Rows(self.num_heads, self.head_dim)
        return Projection("inputs", {"output_gate": gates, "forget_gate": gates, "v": values})


class LowerBound(Drawn):
    """A learned number in (0, 1) a key dimension, from `start`."""

    def __init__(self, size: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.logit = nn.Parameter(torch.empty(size))

    def initialise(self, generator: Generator) -> None:
        nn.init.constant_(self.logit, torch.logit(torch.tensor(self.start, dtype=torch.float64)).item())


class HGRN2(Mixer):
    """W_o RMSNorm(y), y_t = h_t^T o_t, h_t = diag(f_t) h_{t-1} + (1 - f_t) i_t^T (arXiv:2404.07904 eq. 3).

    f = bound + (1 - bound) sigmoid(W x), o = silu(W x) and i = W x, and the norm spans all heads, as in the authors'
    layer of flash-linear-attention.
    """

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__()
        self.config = config
        width, gates = config.width, config.num_heads * config.keys
        self.inputs = Linear(width, 2 * gates + width, bias=config.biases, std=width**-0.5)
        self.bound = LowerBound(gates, config.lower_bound) if config.lower_bound else None
        self.norm = RMSNorm(width)
        self.out = Linear(width, width, bias=config.biases, std=width**-0.5 * config.out_scale)

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output gate, key (..., H, K), input (..., H, V) and log decay (..., H, K), in float32 at least."""
        gates = self.config.num_heads * self.config.keys
        parts = self.inputs(x).split([gates, gates, self.config.width], dim=-1)
        wide = torch.promote_types(x.dtype, torch.float32)
        logits = parts[1].to(wide)
        # 1 - f is never formed as a difference, nor log f of an f that has underflowed
        log_decay, key = F.logsigmoid(logits), torch.sigmoid(-logits)
        if self.bound is not None:
            bound = self.bound.logit.to(wide)
            log_decay = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + log_decay)
            key = torch.sigmoid(-bound) * key
        q, k, v, g = (
            part.unflatten(-1, (self.config.num_heads, -1))
            for part in (F.silu(parts[0]), key.to(parts[2].dtype), parts[2], log_decay)
        )
        return q, k, v, g

    def _finish(self, o: Tensor) -> Tensor:
        """Norm and projection of o (..., H, V)."""
        out: Tensor = self.out(self.norm(o.flatten(-2)))
        return out

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        o = layout.by_document(
            lambda *streams: gated_linear_attention(*streams, scale=1.0)[0], *self._read(x)
        )
        return self._finish(o)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        shape = (batch_size, self.config.num_heads, self.config.keys, self.config.head_dim)
        return {"matrix": torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))}

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        q, k, v, log_decay = self._read(x)
        if block.padding is not None:
            padding = block.padding[..., None, None]
            k, log_decay = k.masked_fill(padding, 0), log_decay.masked_fill(padding, 0)
        o, state["matrix"] = gated_linear_attention(
            q, k, v, log_decay, scale=1.0, initial_state=state["matrix"]
        )
        return self._finish(o)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        q, k, v, log_decay = self._read(x)
        o, _ = gated_linear_attention_step(q, k, v, log_decay, state["matrix"], scale=1.0)
        return self._finish(o)
