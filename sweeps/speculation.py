"""Speculative decoding as a trial measures it: draft heads, their training, and what is then written with them."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from recallfront.sweeps.base import Frozen

_MOST_GUESSES = 10  # of a head that a draft tree may name
_MOST_NODES = 256


class SpeculationConfig(Frozen):
    """Draft heads are trained on the finished model, and text is written with them and without.

    Prompts are the beginnings of rows of the test split, one at a time, and decoding is greedy.
    """

    tree: tuple[Annotated[int, Field(ge=1, le=_MOST_GUESSES)], ...] = Field(
        default=(4, 2, 2, 1),
        min_length=1,
        max_length=8,
        description="How many guesses of each head continue a path of the draft tree: [3, 2] are three guesses of the "
        "first token, and two of the second after each.",
    )
    steps: int = Field(
        default=200,
        ge=1,
        le=10**6,
        description="Optimizer steps of the draft heads; the model stays as it is.",
    )
    batch_size: int = Field(default=8, ge=1, le=2**16, description="Rows per step of the draft heads.")
    learning_rate: float = Field(default=3e-3, gt=0, description="Learning rate of the draft heads.")
    prompts: int = Field(default=8, ge=1, le=2**16, description="Prompts that are continued.")
    prompt_length: int = Field(default=64, ge=1, le=2**24, description="Tokens of a prompt.")
    new_tokens: int = Field(default=64, ge=1, le=2**24, description="Tokens that are written after each.")
    repeats: int = Field(
        default=5, ge=3, description="Interleaved repeats; the median of their ratios is reported."
    )

    @property
    def longest(self) -> int:
        """Tokens of the longest text that is written."""
        return self.prompt_length + self.new_tokens

    def check_fits(self, workers: int, zero_stage: int, *, row: int, train_row: int) -> None:
        """Raise ValueError unless a trial's process has all weights, and its rows are long enough.

        Test rows (`row`) are as long as prompts, and train rows hold what the last head guesses.
        """
        if workers > 1 or zero_stage == 3:
            raise ValueError(
                "speculation: needs resources.workers=1 and training.zero_stage below 3, "
                f"not {workers} and {zero_stage}"
            )
        if self.prompt_length > row:
            raise ValueError(
                f"speculation.prompt_length={self.prompt_length}: must be at most {row}, the length of test rows"
            )
        if train_row < len(self.tree) + 2:
            raise ValueError(
                f"speculation.tree={list(self.tree)}: needs train rows of at least {len(self.tree) + 2} tokens, "
                f"not {train_row}"
            )

    @model_validator(mode="after")
    def _tree_is_small(self) -> Self:
        nodes, level = 1, 1
        for guesses in self.tree:
            level *= guesses
            nodes += level
        if nodes > _MOST_NODES:
            raise ValueError(
                f"tree={list(self.tree)}: has {nodes} nodes; at most {_MOST_NODES} can be verified together"
            )
        return self
