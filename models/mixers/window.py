"""Softmax attention in a sliding window as a mixer; its cache is a ring of the window's keys and values."""

from typing import ClassVar, Literal

from pydantic import Field

from recallfront.models.mixers.attention import AttentionConfig


class WindowConfig(AttentionConfig):
    """Sliding-window softmax attention."""

    letter: ClassVar[str] = "W"

    mixer: Literal["window"] = "window"  # type: ignore[assignment]
    window_size: int = Field(default=16, ge=1, description="Keys that a token sees, its own included.")

    @property
    def visible(self) -> int:
        return self.window_size

    def check_longest(self, longest: int) -> None:
        if self.window_size > longest:
            raise ValueError(
                f"window_size={self.window_size}: longer than the task's longest row of {longest} tokens"
            )
