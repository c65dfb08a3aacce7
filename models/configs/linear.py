"""Linear attentions: Based (arXiv:2402.18668) and grouped, augmented linear attention (arXiv:2406.07368)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.softmax import Positions, WindowKnobs


class BasedConfig(WindowKnobs):
    """Based: Taylor linear attention, sliding-window attention and gated short convolutions."""

    letters: ClassVar[str] = "CLW"
    architecture: Literal["based"] = "based"
    pattern: str = Field(default="CLW", min_length=1)
    feature_dim: int = Field(default=16, ge=1)  # width of queries and keys before the feature map
    positions: Positions = "rope"

    @property
    def expanded_dim(self) -> int:
        """Entries of the second-order Taylor feature map, each product of two features once."""
        return 1 + self.feature_dim + self.feature_dim * (self.feature_dim + 1) // 2

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "L":
            return self.num_heads * self.expanded_dim * (self.head_dim + 1)
        return super().layer_state_elements(letter, context_length)


class GroupedConfig(Architecture):
    """Grouped linear attention with a masked convolution on the values."""

    letters: ClassVar[str] = "CG"
    architecture: Literal["grouped"] = "grouped"
    pattern: str = Field(default="CG", min_length=1)
    group_size: int = Field(default=16, ge=1)
    conv_size: int = Field(default=32, ge=0)  # taps on the values, one filter a head; 0: no augmentation
    positions: Literal["rope", "none"] = "none"
    cross_scale_init: float = 0.0  # start of the learned scale of the part across groups

    @property
    def rotary_dim(self) -> int:
        return self.head_dim if self.positions == "rope" else 0

    @model_validator(mode="after")
    def _check_grouped(self) -> Self:
        if self.rotary_dim % 2:
            raise ValueError(f"width / num_heads is {self.head_dim}; with positions='rope' it must be even")
        return self

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "G":
            group = 2 * min(context_length, self.group_size - 1)
            tail = max(self.conv_size - 1, 0)
            return self.num_heads * self.head_dim * (self.head_dim + group + tail)
        return super().layer_state_elements(letter, context_length)
