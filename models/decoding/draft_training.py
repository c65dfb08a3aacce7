"""Training of draft heads on a model that stays as it is (arXiv:2401.10774 sec. 2.2.1)."""

from collections.abc import Iterator
from typing import Final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from recallfront.models.decoding.speculative import DraftHeads
from recallfront.models.language_model import LanguageModel

_DISCOUNT = 0.8  # of each head's loss against the one before: far tokens are hard to guess
_PIECE: Final = 1024  # positions whose logits of one head are held at once


def draft_losses(heads: DraftHeads, hidden: Tensor, tokens: Tensor) -> Iterator[Tensor]:
    """Parts of the draft loss: the sum over heads k of 0.8^k times the mean cross-entropy of token t + 2 + k, guessed
    from hidden state t.

    hidden (B, T, width): the model's, after its last norm; tokens (B, T), the text that was read. Raises ValueError
    if the text is too short for the last head.
    """
    count = len(heads.blocks)
    if tokens.shape[1] < count + 2:
        raise ValueError(f"tokens have length {tokens.shape[1]}; {count} heads need at least {count + 2}")
    for k in range(count):
        states, wanted = hidden[:, : -2 - k].flatten(0, 1), tokens[:, 2 + k :].flatten()
        for part, answers in zip(states.split(_PIECE), wanted.split(_PIECE), strict=True):
            losses = F.cross_entropy(heads.guess(part, k).float(), answers, reduction="sum")
            yield _DISCOUNT**k * losses / len(wanted)


def train_draft_heads(
    model: LanguageModel,
    heads: DraftHeads,
    tokens: Tensor,
    *,
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> list[float]:
    """Train the heads in place on rows of `tokens` (N, T), drawn with a generator of its own; every step's loss.

    The model's weights and the caller's generators stay as they are.
    """
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=learning_rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        rows = tokens[torch.randint(len(tokens), (batch_size,), generator=generator).to(tokens.device)]
        hidden, _ = model.read(rows, model.init_state(batch_size))
        optimizer.zero_grad()
        loss = torch.zeros((), device=hidden.device)
        for part in draft_losses(heads, hidden, rows):  # each frees its logits
            torch.autograd.backward(part)
            loss += part.detach()
        optimizer.step()
        losses.append(loss.item())
    return losses
