"""MAD's noisy recall (arXiv:2403.17844): in-context recall with noise, of tokens of its own, between the pairs."""

from typing import Literal

from pydantic import Field

from recallfront.sweeps.tasks.mad_in_context_recall import InContextRecall


class MADNoisyInContextRecall(InContextRecall):
    """MAD's noisy in-context recall."""

    name: Literal["mad_noisy_in_context_recall"] = "mad_noisy_in_context_recall"
    vocab_size: int = Field(
        default=32, ge=4, le=2**24, description="Number of tokens, those of noise included."
    )
    noise_vocab_size: int = Field(default=16, ge=1, description="Number of tokens that appear as noise only.")
    frac_noise: float = Field(
        default=0.2, ge=0, lt=1, description="Share of noise, in rows that set none of their own."
    )
