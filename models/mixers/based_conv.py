"""The gated short convolution of Based's language models (arXiv:2402.18668)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recallfront.models.configs.mixer import MixerConfig
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.convolution import ConvTaps
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.gating import gated
from recallfront.models.parts.layers import Linear
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class BasedConvConfig(MixerConfig):
    """The convolution of Based's language models: wider than the model, gated by a SiLU."""

    letter: ClassVar[str] = "B"
    is_architecture: ClassVar[bool] = False

    mixer: Literal["based_conv"] = "based_conv"
    short_conv_size: int = Field(default=3, ge=1, description="Taps of the gated short convolution.")
    conv_expansion: int = Field(
        default=2, ge=1, description="Inner width of the convolution B over the model's width."
    )

    def build(self) -> "BasedConvolution":
        return BasedConvolution(self)

    @property
    def inner(self) -> int:
        return self.conv_expansion * self.width

    def matrix_entries(self) -> int:
        return 3 * self.inner * self.width

    def parameters(self) -> int:
        # taps and biases
        return self.matrix_entries() + (self.short_conv_size + 2) * self.inner + self.width

    def mixing_flops(self, length: int) -> int:
        return 2 * length * self.short_conv_size * self.inner

    def state_elements(self, context_length: int) -> int:
        return (self.short_conv_size - 1) * self.inner


class BasedConvolution(Mixer):
    """W_out (silu(conv(u1)) * u2), u1 and u2 from W_in."""

    def __init__(self, config: BasedConvConfig) -> None:
        super().__init__()
        width, self.inner = config.width, config.inner
        self.branches = Linear(width, 2 * self.inner, bias=True, std=width**-0.5)
        self.conv = ConvTaps(self.inner, config.short_conv_size, bias=False)
        self.out = Linear(self.inner, width, bias=True, std=self.inner**-0.5 * config.out_scale)

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

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> tuple[Tensor, LayerState]:
        u, gate = torch.split(self.branches(x), self.inner, dim=-1)
        return self._gated(self.conv.branch(u, state["conv"], branches), gate), {"u": u}

    def follow(self, left: LayerState, state: LayerState, block: Block) -> None:
        state["conv"] = self.conv.follow(left["u"], state["conv"], block)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        u, gate = torch.split(self.branches(x), self.inner, dim=-1)
        y, state["conv"] = self.conv.step(u, state["conv"])
        return self._gated(y, gate)
