"""Training of draft heads on a model that stays as it is (arXiv:2401.10774 sec. 2.2.1)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from recallfront.models.decoding.speculative import DraftHeads
from recallfront.models.language_model import LanguageModel

_DISCOUNT = 0.8  # of each head's loss against the one before: far tokens are hard to guess


def draft_loss(heads: DraftHeads, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Sum over heads k of 0.8^k times the cross-entropy of token t + 2 + k, guessed from hidden state t.

    hidden (B, T, width): the model's, after its last norm; tokens (B, T), the text that was read. Raises ValueError
    where the text is too short for the last head.
    """
    count = len(heads.blocks)
    if tokens.shape[1] < count + 2:
        raise ValueError(f"tokens have length {tokens.shape[1]}; {count} heads need at least {count + 2}")
    logits = heads(hidden)  # (B, T, heads, vocab)
    losses = [
        _DISCOUNT**k
        * F.cross_entropy(logits[:, : -2 - k, k].flatten(0, 1).float(), tokens[:, 2 + k :].flatten())
        for k in range(count)
    ]
    return torch.stack(losses).sum()


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
        loss = draft_loss(heads, hidden, rows)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses
