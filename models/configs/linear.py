"""Linear attentions: Based (arXiv:2402.18668) and grouped, augmented linear attention (arXiv:2406.07368)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.base import Architecture
from recallfront.models.configs.softmax import Positions, WindowKnobs

FeatureMapName = Literal["taylor", "elu", "relu", "square", "cosformer", "performer", "hedgehog"]


class FeatureKnobs(Architecture):
    """Knobs of a linear attention layer (letter L)."""

    feature_map: FeatureMapName = "elu"
    feature_dim: int | None = Field(
        default=None, ge=1
    )  # of queries and keys, before the map; None: the head's
    random_features: int = Field(default=64, ge=1)  # of the performer
    horizon: int = Field(default=2048, ge=1)  # of cosformer: further back than that, weights turn negative
    conv_size: int = Field(default=0, ge=0)  # taps of the augmenting convolution on values; 0: none

    @property
    def key_dim(self) -> int:
        return self.feature_dim or self.head_dim

    @property
    def expanded_dim(self) -> int:
        """Features a head; of the Taylor map with each product of two features once."""
        dim = self.key_dim
        if self.feature_map == "taylor":
            return 1 + dim + dim * (dim + 1) // 2
        if self.feature_map == "performer":
            return self.random_features
        return 2 * dim if self.feature_map in ("cosformer", "hedgehog") else dim

    def layer_matrix(self, letter: str) -> int:
        if letter == "L":
            learned = self.key_dim**2 if self.feature_map == "hedgehog" else 0
            return (
                self.width * (2 * self.num_heads * self.key_dim + 2 * self.width) + self.num_heads * learned
            )
        return super().layer_matrix(letter)

    def layer_parameters(self, letter: str) -> int:
        if letter == "L":
            biases = 2 * self.num_heads * self.key_dim + 2 * self.width if self.biases else 0
            return self.layer_matrix(letter) + biases + self.conv_size * self.num_heads
        return super().layer_parameters(letter)

    def layer_mixing_flops(self, letter: str, length: int) -> int:
        if letter == "L":
            state = 4 * self.num_heads * self.expanded_dim * (self.head_dim + 1)
            return length * (state + 2 * self.conv_size * self.width)
        return super().layer_mixing_flops(letter, length)

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "L":
            tail = max(self.conv_size - 1, 0) * self.width
            return self.num_heads * self.expanded_dim * (self.head_dim + 1) + tail
        return super().layer_state_elements(letter, context_length)

    def materialised_state_elements(self, context_length: int) -> int:
        """With each product of two Taylor features twice (1 + d + d^2 features), as Based's code holds them."""
        twice = self.key_dim * (self.key_dim - 1) // 2 if self.feature_map == "taylor" else 0
        doubles = self.layers.count("L") * self.num_heads * twice * (self.head_dim + 1)
        return self.state_elements(context_length) + doubles


class LinearConfig(FeatureKnobs):
    """Linear attention with one of the feature maps, with or without augmentation."""

    letters: ClassVar[str] = "CL"
    architecture: Literal["linear"] = "linear"
    pattern: str = Field(default="CL", min_length=1)


class BasedConfig(FeatureKnobs, WindowKnobs):
    """Based: Taylor linear attention, sliding-window attention and gated short convolutions."""

    letters: ClassVar[str] = "CLWB"
    architecture: Literal["based"] = "based"
    pattern: str = Field(default="CLW", min_length=1)
    feature_map: FeatureMapName = "taylor"
    feature_dim: int | None = Field(default=16, ge=1)
    positions: Positions = "rope"
    conv_expansion: int = Field(default=2, ge=1)  # inner width of the language models' convolution (B)

    def layer_matrix(self, letter: str) -> int:
        if letter == "B":
            return 3 * self.conv_expansion * self.width * self.width
        return super().layer_matrix(letter)

    def layer_parameters(self, letter: str) -> int:
        if letter == "B":
            inner = self.conv_expansion * self.width
            return self.layer_matrix(letter) + (self.short_conv_size + 2) * inner + self.width  # taps, biases
        return super().layer_parameters(letter)

    def layer_mixing_flops(self, letter: str, length: int) -> int:
        if letter == "B":
            return 2 * length * self.short_conv_size * self.conv_expansion * self.width
        return super().layer_mixing_flops(letter, length)

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "B":
            return (self.short_conv_size - 1) * self.conv_expansion * self.width
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
        self._check_turned(self.rotary_dim)
        return self

    def layer_matrix(self, letter: str) -> int:
        if letter == "G":
            return 4 * self.width * self.width
        return super().layer_matrix(letter)

    def layer_parameters(self, letter: str) -> int:
        if letter == "G":
            biases = 4 * self.width if self.biases else 0
            return self.layer_matrix(letter) + biases + 1 + self.conv_size * self.num_heads
        return super().layer_parameters(letter)

    def layer_mixing_flops(self, letter: str, length: int) -> int:
        if letter == "G":
            full, rest = divmod(length, self.group_size)
            pairs = (full * self.group_size * (self.group_size + 1) + rest * (rest + 1)) // 2
            return (
                4 * self.width * (pairs + length * self.head_dim) + 2 * length * self.conv_size * self.width
            )
        return super().layer_mixing_flops(letter, length)

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "G":
            group = 2 * min(context_length, self.group_size - 1)
            tail = max(self.conv_size - 1, 0)
            return self.num_heads * self.head_dim * (self.head_dim + group + tail)
        return super().layer_state_elements(letter, context_length)
