"""Hawk and Griffin (arXiv:2402.19427)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.softmax import Positions, WindowKnobs


class RecurrentKnobs(Architecture):
    """Knobs of the recurrent block. `num_heads` is also the number of diagonal blocks of its gates."""

    lru_width: int | None = Field(
        default=None, ge=1
    )  # None: the width (the paper's models have about 4/3 of it)
    conv_size: int = Field(default=4, ge=1)
    lambda_init: Literal["paper", "recurrentgemma"] = "paper"

    @property
    def recurrent_width(self) -> int:
        return self.lru_width or self.width

    @model_validator(mode="after")
    def _check_recurrent(self) -> Self:
        self._check_divides("num_heads", self.num_heads, "lru_width", self.recurrent_width)
        return self

    def resized(
        self, *, width: int | None = None, num_layers: int | None = None, num_heads: int | None = None
    ) -> Self:
        resized = super().resized(width=width, num_layers=num_layers, num_heads=num_heads)
        if self.lru_width is None or width is None:
            return resized
        heads = resized.num_heads  # keep the ratio to the width, as a multiple of the gates' blocks
        lru_width = max(1, round(self.lru_width * width / self.width / heads)) * heads
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

    @property
    def rotary_dim(self) -> int:
        """Griffin turns the first half of each head's dimensions and leaves the others."""
        return self.head_dim // 2 if self.positions == "rope" else 0

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "A":
            return self.kv_width * context_length
        return super().layer_state_elements(letter, context_length)
