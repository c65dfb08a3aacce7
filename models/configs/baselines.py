"""The baselines whose state is a matrix a head: Mamba-2, gated DeltaNet, DeltaNet, GLA and RetNet (letter S)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.base import Architecture


class MatrixStateConfig(Architecture):
    """Knobs of a layer whose heads each carry a matrix: `state_dim` rows (keys) by the value width of a head."""

    letters: ClassVar[str] = "CS"
    pattern: str = Field(default="CS", min_length=1)
    state_dim: int | None = Field(default=None, ge=1)  # rows a head; None: width / num_heads
    value_expansion: int = Field(default=1, ge=1)  # width of all values together over the model's
    conv_size: int = Field(default=1, ge=1)  # taps of the convolution after the projections; 1: none

    @property
    def keys(self) -> int:
        return self.state_dim or self.head_dim

    @property
    def values(self) -> int:
        """Width of one head's values."""
        return self.value_expansion * self.head_dim

    @property
    def key_heads(self) -> int:
        """Heads that have queries and keys of their own."""
        return self.num_heads

    @property
    def conv_channels(self) -> int:
        """What the convolution runs over: queries, keys and values of all heads."""
        return 2 * self.key_heads * self.keys + self.num_heads * self.values

    @property
    def is_gated(self) -> bool:
        """Whether a gate stands before the projection back."""
        return True

    def layer_matrix(self, letter: str) -> int:
        if letter == "S":
            inner = self.num_heads * self.values
            return self.width * (
                self.conv_channels + (2 if self.is_gated else 1) * inner + self._decay_matrix()
            )
        return super().layer_matrix(letter)

    def _decay_matrix(self) -> int:
        """Numbers of a token's decay and step size that come from one matrix."""
        return 0

    def _vectors(self) -> int:
        """Parameters of a layer that are in no matrix, beside the convolution's and the norm's."""
        return 0

    def layer_parameters(self, letter: str) -> int:
        if letter == "S":
            taps = (self.conv_size + 1) * self.conv_channels if self.conv_size > 1 else 0
            biases = self.conv_channels + self.width if self.biases else 0
            return self.layer_matrix(letter) + biases + taps + self._norm_width() + self._vectors()
        return super().layer_parameters(letter)

    def _norm_width(self) -> int:
        return self.values

    def layer_mixing_flops(self, letter: str, length: int) -> int:
        if letter == "S":
            convolution = 2 * self.conv_size * self.conv_channels if self.conv_size > 1 else 0
            state = self.num_heads * self.keys * self.values
            return length * (self._state_passes() * 2 * state + convolution)
        return super().layer_mixing_flops(letter, length)

    def _state_passes(self) -> int:
        """Multiply-adds a token makes with each entry of the state: it decays, adds and reads."""
        return 3

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "S":
            return self.num_heads * self.keys * self.values + (self.conv_size - 1) * self.conv_channels
        return super().layer_state_elements(letter, context_length)


class Mamba2Config(MatrixStateConfig):
    """Mamba-2 (arXiv:2405.21060): a decay a head from the input; keys and queries shared by a group of heads."""

    architecture: Literal["mamba2"] = "mamba2"
    state_dim: int | None = Field(default=64, ge=1)
    value_expansion: int = Field(default=2, ge=1)
    conv_size: int = Field(default=4, ge=1)
    num_groups: int | None = Field(default=1, ge=1)  # of heads that share keys and queries; None: num_heads

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        self._check_divides("num_groups", self.key_heads, "num_heads", self.num_heads)
        return self

    @property
    def key_heads(self) -> int:
        return self.num_groups or self.num_heads

    def _decay_matrix(self) -> int:
        return self.num_heads

    def _vectors(self) -> int:
        return 3 * self.num_heads  # bias and rate of the decay, the skip

    def _norm_width(self) -> int:
        return self.num_heads * self.values


class GatedDeltaNetConfig(MatrixStateConfig):
    """Gated DeltaNet (arXiv:2412.06464): the delta rule with a decay a head from the input."""

    architecture: Literal["gated_deltanet"] = "gated_deltanet"
    value_expansion: int = Field(default=2, ge=1)
    conv_size: int = Field(default=4, ge=1)

    def _decay_matrix(self) -> int:
        return 2 * self.num_heads  # the decay and beta

    def _vectors(self) -> int:
        return 2 * self.num_heads

    def _state_passes(self) -> int:
        return 4


class DeltaNetConfig(MatrixStateConfig):
    """DeltaNet (arXiv:2406.06484): the delta rule without decay."""

    architecture: Literal["deltanet"] = "deltanet"
    conv_size: int = Field(default=4, ge=1)

    @property
    def is_gated(self) -> bool:
        return False

    def _decay_matrix(self) -> int:
        return self.num_heads  # beta


class GLAConfig(MatrixStateConfig):
    """Gated linear attention (arXiv:2312.06635): a decay a key dimension from the input."""

    architecture: Literal["gla"] = "gla"
    gate_rank: int = Field(default=16, ge=1)  # of the low-rank map that gives the decays
    gate_temperature: float = Field(default=16.0, gt=0)

    def layer_matrix(self, letter: str) -> int:
        low_rank = self.gate_rank * (self.width + self.num_heads * self.keys)
        return super().layer_matrix(letter) + (low_rank if letter == "S" else 0)

    def _vectors(self) -> int:
        return self.num_heads * self.keys


class RetNetConfig(MatrixStateConfig):
    """RetNet (arXiv:2307.08621): a fixed decay a head, rotary positions."""

    architecture: Literal["retnet"] = "retnet"
    value_expansion: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _check_rotary(self) -> Self:
        if self.keys % 2:
            raise ValueError(f"state_dim is {self.keys}; retnet turns keys in pairs, so it must be even")
        return self
