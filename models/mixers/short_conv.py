"""Gated short convolution, the mixer that goes before every other in the field's synthetic protocol."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recallfront.models.configs.mixer import MixerConfig
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.convolution import ConvTaps
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.layers import Linear
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class ShortConvConfig(MixerConfig):
    """The gated short convolution of zoology's synthetic models (arXiv:2312.04927)."""

    letter: ClassVar[str] = "C"
    is_architecture: ClassVar[bool] = False

    mixer: Literal["short_conv"] = "short_conv"
    short_conv_size: int = Field(default=3, ge=1, description="Taps of the gated short convolution.")

    def build(self) -> "GatedShortConvolution":
        return GatedShortConvolution(self)

    def matrix_entries(self) -> int:
        return self.width * self.width

    def parameters(self) -> int:
        return self.matrix_entries() + (self.short_conv_size + 2) * self.width

    def mixing_flops(self, length: int) -> int:
        return 2 * length * self.short_conv_size * self.width

    def state_elements(self, context_length: int) -> int:
        return (self.short_conv_size - 1) * self.width


class GatedShortConvolution(Mixer):
    """y = conv(x) * (W x + b) + x, inner residual included."""

    def __init__(self, config: ShortConvConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.width, bias=True, std=config.width**-0.5)
        self.conv = ConvTaps(config.width, config.short_conv_size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        # not `addcmul`: its gradient is multiplied by 1 twice
        mixed: Tensor = self.conv(x, layout) * self.gate(x)
        return x + mixed

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        return {"conv": self.conv.init_state(batch_size, device, dtype)}

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        y, state["conv"] = self.conv.extend(x, state["conv"], block)
        return torch.addcmul(x, y, self.gate(x))

    can_branch = True

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> tuple[Tensor, LayerState]:
        return torch.addcmul(x, self.conv.branch(x, state["conv"], branches), self.gate(x)), {"x": x}

    def follow(self, left: LayerState, state: LayerState, block: Block) -> None:
        state["conv"] = self.conv.follow(left["x"], state["conv"], block)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        y, state["conv"] = self.conv.step(x, state["conv"])
        return torch.addcmul(x, y, self.gate(x))
