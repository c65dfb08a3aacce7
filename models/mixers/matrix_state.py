"""Mixers whose heads each carry a matrix that decays, is added to, or is corrected: the baselines.

All share one shape: projections, a short convolution, a recurrence, a norm a head, a gate and a projection
back. They differ in where the decay comes from and in whether the delta rule is used.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recallfront.kernels.common.chunks import normalised
from recallfront.kernels.gated_delta_rule.operator import gated_delta_rule, gated_delta_rule_step
from recallfront.kernels.gated_linear_attention.operator import (
    gated_linear_attention,
    gated_linear_attention_step,
)
from recallfront.models.configs.baselines import (
    DeltaNetConfig,
    GatedDeltaNetConfig,
    GLAConfig,
    Mamba2Config,
    MatrixStateConfig,
    RetNetConfig,
)
from recallfront.models.mixers.base import Mixer
from recallfront.models.mixers.short_convolution import ConvTaps
from recallfront.models.parts.gating import gated
from recallfront.models.parts.layers import Drawn, Linear, RMSNorm, rotate
from recallfront.models.parts.state import Block, LayerState, Layout, Step


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


class Skip(Drawn):
    """A learned multiple of the values, added to the output (D of Mamba-2)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads))

    def initialise(self, generator: Generator) -> None:
        nn.init.ones_(self.weight)

    def forward(self, v: Tensor) -> Tensor:
        """v (..., H, V) times one number a head."""
        return v * self.weight[:, None]


def fixed_decay(heads: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """log(1 - 2^(-5 - h)) for each head (arXiv:2307.08621 sec. 3.1)."""
    return torch.log1p(-(2.0 ** (-5 - torch.arange(heads, device=device, dtype=torch.float64)))).to(dtype)


class MatrixState(Mixer):
    """One of the baselines, as its configuration says."""

    def __init__(self, config: MatrixStateConfig, out_scale: float) -> None:
        super().__init__()
        self.config = config
        width, heads, keys, values = config.width, config.num_heads, config.keys, config.values
        std, inner = width**-0.5, heads * values
        self.shared_keys = isinstance(config, Mamba2Config)
        self.is_delta = isinstance(config, (DeltaNetConfig, GatedDeltaNetConfig))
        self.key_width = config.key_heads * keys
        self.qkv = Linear(width, config.conv_channels, bias=config.biases, std=std)
        self.gate = None if isinstance(config, DeltaNetConfig) else Linear(width, inner, std=std)
        self.out = Linear(inner, width, bias=config.biases, std=inner**-0.5 * out_scale)
        self.norm = RMSNorm(inner if self.shared_keys else values)
        convolves = config.conv_size > 1
        self.conv = ConvTaps(config.conv_channels, config.conv_size, activation="silu") if convolves else None
        self.beta = Linear(width, heads, std=std) if self.is_delta else None
        self.skip = Skip(heads) if self.shared_keys else None
        self.selective = (
            SelectiveDecay(width, heads) if isinstance(config, (Mamba2Config, GatedDeltaNetConfig)) else None
        )
        self.low_rank = (
            LowRankDecay(width, heads, keys, config.gate_rank, config.gate_temperature)
            if isinstance(config, GLAConfig)
            else None
        )

    def _split(self, qkv: Tensor, positions: Tensor | int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (..., H, K) and v (..., H, V) of what the convolution gave (B, T, channels)."""
        config, heads = self.config, self.config.num_heads
        q, k, v = torch.split(qkv, [self.key_width, self.key_width, heads * config.values], dim=-1)
        v = v.reshape(*v.shape[:2], heads, config.values)
        q, k = (x.reshape(*x.shape[:2], config.key_heads, config.keys) for x in (q, k))
        if self.shared_keys:
            q, k = (self._to_all_heads(x) for x in (q, k))
        if self.is_delta:
            q, k = normalised(q), normalised(k)
        if isinstance(config, RetNetConfig):
            q, k = (rotate(x, positions, config.keys, longest, config.rope_theta) for x in (q, k))
        return q, k, v

    def _to_all_heads(self, x: Tensor) -> Tensor:
        """Each group's keys for all of its heads: (B, T, groups, K) -> (B, T, H, K), no copy of a single group's."""
        groups, heads = x.shape[2], self.config.num_heads
        return x[:, :, :, None].expand(*x.shape[:3], heads // groups, -1).flatten(2, 3)

    def _decay(self, x: Tensor, v: Tensor) -> tuple[Tensor | None, Tensor]:
        """Log decay (..., H) or (..., H, K), and the values as they enter the state."""
        if self.selective is not None:
            log_decay, dt = self.selective(x)
            return log_decay, v * dt[..., None].to(v.dtype) if self.shared_keys else v
        if self.low_rank is not None:
            return self.low_rank(x), v
        if isinstance(self.config, RetNetConfig):
            wide = torch.promote_types(x.dtype, torch.float32)
            decay = fixed_decay(self.config.num_heads, x.device, wide)
            return decay.expand(*x.shape[:-1], self.config.num_heads), v
        return None, v

    def _mix(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The recurrence over a block (B, T, ...); padding (B, T) leaves the state as it is."""
        log_decay, entering = self._decay(x, v)
        beta = None if self.beta is None else torch.sigmoid(self.beta(x))
        if padding is not None:
            k = k.masked_fill(padding[..., None, None], 0)
            if log_decay is not None:
                mask = padding[..., None] if log_decay.ndim == 3 else padding[..., None, None]
                log_decay = log_decay.masked_fill(mask, 0)
        if beta is not None:
            return gated_delta_rule(q, k, v, beta, log_decay, initial_state=state)
        assert log_decay is not None  # only the delta rule goes without
        return gated_linear_attention(
            q, k, entering, log_decay, scale=1.0 if self.shared_keys else None, initial_state=state
        )

    def _finish(self, x: Tensor, o: Tensor, v: Tensor) -> Tensor:
        """Skip, norm, gate and projection of o (..., H, V)."""
        if self.skip is not None:
            o = o + self.skip(v)
        gate = None if self.gate is None else self.gate(x)
        if self.shared_keys and gate is not None:  # Mamba-2 gates before its norm, which spans all heads
            out: Tensor = self.out(self.norm(gated(gate, o.flatten(-2), "silu")))
            return out
        o = self.norm(o).flatten(-2)
        out = self.out(o if gate is None else gated(gate, o, "silu"))
        return out

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = layout.unpack(x)
        qkv: Tensor = self.qkv(x)
        if self.conv is not None:
            qkv = self.conv(qkv, Layout(None, layout.longest))
        q, k, v = self._split(qkv, 0, layout.longest)
        o, _ = self._mix(x, q, k, v, None)
        return layout.pack(self._finish(x, o, v))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        config = self.config
        shape = (batch_size, config.num_heads, config.keys, config.values)
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
        o, state["matrix"] = self._mix(x, q, k, v, state["matrix"], block.padding)
        return self._finish(x, o, v)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        qkv: Tensor = self.qkv(x)
        if self.conv is not None:
            qkv, state["conv"] = self.conv.step(qkv, state["conv"])
        positions: Tensor | int = step.longest if step.uniform else step.lengths[:, None]
        q, k, v = (part[:, 0] for part in self._split(qkv[:, None], positions, step.longest + 1))
        log_decay, entering = self._decay(x, v)
        if self.beta is not None:
            beta = torch.sigmoid(self.beta(x))
            o, _ = gated_delta_rule_step(q, k, v, beta, log_decay, state["matrix"])
        else:
            assert log_decay is not None
            scale = 1.0 if self.shared_keys else None
            o, _ = gated_linear_attention_step(q, k, entering, log_decay, state["matrix"], scale=scale)
        return self._finish(x, o, v)
