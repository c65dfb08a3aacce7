"""Gated short convolution, the mixer that goes before every other in the field's synthetic protocol."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recallfront.kernels.short_conv.operator import Activation, short_conv, short_conv_step
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.gating import gated
from recallfront.models.parts.layers import Drawn, Linear
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class ConvTaps(Drawn):
    """Depthwise convolution with taps (C, K), a bias (C), if any, and an activation; std None draws as PyTorch's
    Conv1d does.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        std: float | None = None,
        bias: bool = True,
        activation: Activation = None,
    ) -> None:
        super().__init__()
        self.std, self.activation = std, activation
        self.taps = nn.Parameter(torch.empty(channels, size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def initialise(self, generator: Generator) -> None:
        if self.std is not None:
            nn.init.normal_(self.taps, std=self.std, generator=generator)
            if self.bias is not None:
                nn.init.zeros_(self.bias)
            return
        bound = 1 / math.sqrt(self.taps.shape[1])
        nn.init.uniform_(self.taps, -bound, bound, generator=generator)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound, generator=generator)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return short_conv(
            x, self.taps, bias=self.bias, positions=layout.positions, activation=self.activation
        )[0]

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        channels, size = self.taps.shape
        return torch.zeros(batch_size, size - 1, channels, device=device, dtype=dtype)

    def extend(self, x: Tensor, state: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        y, last = short_conv(x, self.taps, bias=self.bias, initial_state=state, activation=self.activation)
        if block.counts is not None:
            last = block.last(torch.cat([state, x], dim=1), state.shape[1])
        return y, last

    def branch(self, x: Tensor, state: Tensor, branches: Branches) -> Tensor:
        """The nodes of a draft tree, each over its own path."""
        history = torch.cat([state, x], dim=1)[:, branches.history(state.shape[1])]  # (B, N, K, C)
        y = torch.einsum("bnkc,ck->bnc", history, self.taps)
        y = y if self.bias is None else y + self.bias
        return F.silu(y) if self.activation else y

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return short_conv_step(x, self.taps, state, bias=self.bias, activation=self.activation, in_place=True)


class GatedShortConvolution(Mixer):
    """y = conv(x) * (W x + b) + x, as in zoology's synthetic models (arXiv:2312.04927), inner residual
    included.
    """

    def __init__(self, width: int, size: int, *, std: float | None = None) -> None:
        super().__init__()
        self.gate = Linear(width, width, bias=True, std=std or width**-0.5)
        self.conv = ConvTaps(width, size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.addcmul(x, self.conv(x, layout), self.gate(x))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        return {"conv": self.conv.init_state(batch_size, device, dtype)}

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        y, state["conv"] = self.conv.extend(x, state["conv"], block)
        return torch.addcmul(x, y, self.gate(x))

    can_branch = True

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> Tensor:
        return torch.addcmul(x, self.conv.branch(x, state["conv"], branches), self.gate(x))

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        y, state["conv"] = self.conv.step(x, state["conv"])
        return torch.addcmul(x, y, self.gate(x))


class BasedConvolution(Mixer):
    """W_out (silu(conv(u1)) * u2), u1 and u2 from W_in: the convolution of Based's language models (letter
    B).
    """

    def __init__(self, width: int, expansion: int, size: int, out_scale: float) -> None:
        super().__init__()
        self.inner = expansion * width
        self.branches = Linear(width, 2 * self.inner, bias=True, std=width**-0.5)
        self.conv = ConvTaps(self.inner, size, bias=False)
        self.out = Linear(self.inner, width, bias=True, std=self.inner**-0.5 * out_scale)

    def _gated(self, convolved: Tensor, gate: Tensor) -> Tensor:
        out: Tensor = self.out(gated(convolved, gate, "silu"))
        return out

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        u, gate = torch.split(self.branches(x), self.inner, dim=-1)
        return self._gated(self.conv(u, layout), gate)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        return {"conv": self.conv.init_state(batch_size, device, dtype)}

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        u, gate = torch.split(self.branches(x), self.inner, dim=-1)
        y, state["conv"] = self.conv.extend(u, state["conv"], block)
        return self._gated(y, gate)

    can_branch = True

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> Tensor:
        u, gate = torch.split(self.branches(x), self.inner, dim=-1)
        return self._gated(self.conv.branch(u, state["conv"], branches), gate)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        u, gate = torch.split(self.branches(x), self.inner, dim=-1)
        y, state["conv"] = self.conv.step(u, state["conv"])
        return self._gated(y, gate)
