"""What recall is the mean of: labelled positions, rows, whole answers, or the classes of a batch."""

from typing import Literal

import torch
from torch import Tensor

Over = Literal["positions", "rows", "answers", "classes"]


def share_sums(over: Over, predicted: Tensor, answers: Tensor, rows: Tensor) -> tuple[float, float]:
    """The sum of the shares of right answers in a batch, and of how many things they are shares; (0, 0) over positions.

    Zoology's accuracy is the mean of the shares of rows, where a row of four questions weighs as much as one of 64.
    An answer of several tokens is right if all of a row's are: greedy decoding then writes it.
    MAD's (arXiv:2403.17844) is the macro accuracy of each batch: the mean share over the classes that are an answer or
    a prediction there, so that a class that is predicted and never an answer counts 0.

    Args:
        predicted, answers: (N,), at the labelled positions.
        rows: (N,), the row of each within the batch.
    """
    if over == "positions" or not len(answers):
        return 0.0, 0.0
    right = (predicted == answers).double()
    if over in ("rows", "answers"):
        own, there = _shares_within(rows, right)
        own = own.floor() if over == "answers" else own
        return float(own.sum()), float(there.sum())
    own, there = _shares_within(answers, right)
    classes = torch.cat([answers, predicted]).unique().numel()
    return float(own.sum()) / classes, 1.0


def _shares_within(groups: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The share of right answers in each group, 0 where a group has none; and which groups have some."""
    size = groups.bincount()
    return torch.bincount(groups, weights=right) / size.clamp(min=1), size > 0
