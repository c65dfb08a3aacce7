"""Answers on long rows, read in pieces: memory is that of a piece and of the state, whatever the length."""

import torch
from torch import Tensor

from recallfront.models.language_model import LanguageModel
from recallfront.models.parts.answers import Answered, answered

PIECE = 1024  # tokens of a row that are read at once


@torch.no_grad()
def answer_in_pieces(
    model: LanguageModel, tokens: Tensor, at: Tensor, answers: Tensor, *, piece: int = PIECE
) -> Answered:
    """What `model(tokens, at=at, answers=answers)` gives, `piece` tokens of every row after another.

    tokens (B, T); at, answers (N,) as places of the B * T, in any order. Between pieces there is the decode state
    alone, so that a recurrent model holds no more for a longer row; one whose state grows holds that.
    """
    device, time = model.embedding.weight.device, tokens.shape[1]
    rows, columns = at // time, at % time
    losses: Tensor | None = None
    predicted = torch.empty_like(answers)
    state = model.init_state(len(tokens))
    for first in range(0, time, piece):
        part = tokens[:, first : first + piece].to(device)
        hidden, state = model.read(part, state)
        own = ((columns >= first) & (columns < first + piece)).nonzero()[:, 0]
        asked = hidden[rows[own], columns[own] - first]
        found = answered(asked, model.unembedding_weight, answers[own], model.config.logits_soft_cap)
        if losses is None:
            losses = found.losses.new_empty(len(answers))
        losses[own], predicted[own] = found.losses, found.predicted
    assert losses is not None
    return Answered(losses.sum(), losses, predicted)
