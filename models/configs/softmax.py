"""Softmax attention: global (ALiBi, RoPE, sinusoidal, T5 bias, none) and in a sliding window."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.base import Architecture

T5_BUCKETS = 32  # of the T5 bias, a number each and head
Positions = Literal["alibi", "rope", "sinusoidal", "t5", "none"]


class AttentionKnobs(Architecture):
    """Knobs of every softmax attention layer."""

    positions: Positions = "alibi"
    num_kv_heads: int | None = Field(default=None, ge=1)  # None: num_heads; 1: multi-query attention

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def kv_width(self) -> int:
        """Numbers that one token leaves in the cache of one layer: its keys and values."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of a head that RoPE turns."""
        return self.head_dim if self.positions == "rope" else 0

    def layer_matrix(self, letter: str) -> int:
        if letter in "AW":
            return self.width * (2 * self.width + self.kv_width)
        return super().layer_matrix(letter)

    def layer_parameters(self, letter: str) -> int:
        if letter in "AW":
            biases = 2 * self.width + self.kv_width if self.biases else 0
            table = T5_BUCKETS * self.num_heads if self.positions == "t5" else 0
            return self.layer_matrix(letter) + biases + table
        return super().layer_parameters(letter)

    def layer_mixing_flops(self, letter: str, length: int) -> int:
        if letter in "AW":
            return 4 * self.width * self._visible_pairs(letter, length)
        return super().layer_mixing_flops(letter, length)

    def _visible_pairs(self, letter: str, length: int) -> int:
        """Pairs of a query and a key that it sees, over a sequence."""
        return length * (length + 1) // 2

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "A":
            return self.kv_width * context_length
        return super().layer_state_elements(letter, context_length)

    @model_validator(mode="after")
    def _check_attention(self) -> Self:
        self._check_divides("num_kv_heads", self.kv_heads, "num_heads", self.num_heads)
        self._check_turned(self.rotary_dim)
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width is {self.width}; with positions='sinusoidal' it must be even")
        return self


class AttentionConfig(AttentionKnobs):
    """Global softmax attention (arXiv:2108.12409 with positions='alibi')."""

    letters: ClassVar[str] = "CA"
    architecture: Literal["attention"] = "attention"
    pattern: str = Field(default="CA", min_length=1)


class WindowKnobs(AttentionKnobs):
    """Knobs of an architecture with sliding-window layers."""

    window_size: int = Field(default=16, ge=1)  # keys visible, the token's own included

    def _visible_pairs(self, letter: str, length: int) -> int:
        seen = min(self.window_size, length) if letter == "W" else length
        return seen * (seen + 1) // 2 + (length - seen) * seen

    def layer_state_elements(self, letter: str, context_length: int) -> int:
        if letter == "W":
            return self.kv_width * min(context_length, self.window_size - 1)
        return super().layer_state_elements(letter, context_length)


class WindowConfig(WindowKnobs):
    """Sliding-window softmax attention."""

    letters: ClassVar[str] = "CW"
    architecture: Literal["window"] = "window"
    pattern: str = Field(default="CW", min_length=1)
