"""Hawk and Griffin (arXiv:2402.19427)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.softmax import Positions, WindowKnobs


class RecurrentKnobs(Architecture):
    """Knobs of the recurrent block."""

    lru_width: int | None = Field(default=None, ge=1)  # None: the width; the paper's have about 4/3 of it
    conv_size: int = Field(default=4, ge=1)
    gate_blocks: int | None = Field(default=None, ge=1)  # diagonal blocks of the gates; None: num_heads
    lambda_init: Literal["paper", "recurrentgemma"] = "paper"

    @property
    def recurrent_width(self) -> int:
        return self.lru_width or self.width

    @property
    def num_gate_blocks(self) -> int:
        return self.gate_blocks or self.num_heads

    @property
    def mlp_bias(self) -> bool:
        return True

    def layer_matrix(self, letter: str) -> int:
        lru = self.recurrent_width
        if letter == "R":
            return 3 * self.width * lru + 2 * lru * lru // self.num_gate_blocks
        return super().layer_matrix(letter)

    def layer_parameters(self, letter: str) -> int:
        if letter == "R":
            # biases of the branches, the convolution, the gates and the way out; the rates
            vectors = (2 + self.conv_size + 1 + 2 + 1) * self.recurrent_width + self.width
            return self.layer_matrix(letter) + vectors
        out_bias = self.width if letter in "AW" and not self.biases else 0  # always there
        return super().layer_parameters(letter) + out_bias

    def layer_mixing_flops(self, letter: str, length: int) -> int:
        if letter == "R":
            return 2 * length * (self.conv_size + 1) * self.recurrent_width
        return super().layer_mixing_flops(letter, length)

    @model_validator(mode="after")
    def _check_recurrent(self) -> Self:
        name = "num_heads" if self.gate_blocks is None else "gate_blocks"
        self._check_divides(name, self.num_gate_blocks, "lru_width", self.recurrent_width)
        return self

    def resized(
        self, *, width: int | None = None, num_layers: int | None = None, num_heads: int | None = None
    ) -> Self:
        resized = super().resized(width=width, num_layers=num_layers, num_heads=num_heads)
        if self.lru_width is None or width is None:
            return resized
        blocks = resized.num_gate_blocks  # keep the ratio to the width, as a multiple of the gates' blocks
        lru_width = max(1, round(self.lru_width * width / self.width / blocks)) * blocks
        return type(self).model_validate({**resized.model_dump(), "lru_width": lru_width})

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "R":
            return self.recurrent_width * self.conv_size
        return super().layer_state_elements(letter, context_length)


class HawkConfig(RecurrentKnobs):
    """Hawk: recurrent blocks only."""

    letters: ClassVar[str] = "CR"
    architecture: Literal["hawk"] = "hawk"
    pattern: str = Field(default="CR", min_length=1)


class GriffinConfig(RecurrentKnobs, WindowKnobs):
    """Griffin: recurrent blocks and local multi-query attention ("RRW" in the paper); A attends to all."""

    letters: ClassVar[str] = "CRWA"
    architecture: Literal["griffin"] = "griffin"
    pattern: str = Field(default="CRW", min_length=1)
    positions: Positions = "rope"
    num_kv_heads: int | None = Field(default=1, ge=1)
    rotary_fraction: float = Field(
        default=0.5, ge=0, le=1
    )  # of a head's dimensions, the first, that RoPE turns

    @property
    def rotary_dim(self) -> int:
        turned = int(self.rotary_fraction * self.head_dim + 1e-9)  # 0.29 * 100 is below 29
        return turned if self.positions == "rope" else 0
