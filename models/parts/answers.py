"""Losses of the answers alone: logits are made where something is asked, some positions at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recallfront.kernels.common.gradients import written_out

MOST_LOGITS = 2**23  # that exist at once: 32 MiB in float32
_CACHED_LOGITS = 2**20  # that a CPU's caches hold, which saves a tenth of the time
_FEWEST_ROWS = 128  # with fewer at once matrix products are slower than memory


class Answered(NamedTuple):
    """What N answers came to."""

    loss: Tensor  # (), nats: the sum, through which gradients flow
    losses: Tensor  # (N,), nats
    predicted: Tensor  # (N,) int64: the token with the largest logit; (0,) while gradients are computed


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """Logits that stay below `cap` in size; as they are without one."""
    return cap * torch.tanh(logits / cap) if cap else logits


def answered(hidden: Tensor, weight: Tensor, answers: Tensor, cap: float | None) -> Answered:
    """The cross entropy of answers (N,), from hidden states (N, width) and the unembedding's weight (vocab, width).

    At most MOST_LOGITS logits exist at once, in the backward pass too: gradients are computed with the losses, so
    that no logits are kept. In float32 beside a half-precision weight.
    """
    return Answered(*_Answered.apply(hidden, weight, answers, cap, torch.is_grad_enabled()))  # type: ignore[no-untyped-call]


class _Answered(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, answers: Tensor, cap: float | None, learns: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = _exact(hidden)
        losses = hidden.new_empty(len(answers), dtype=exact)
        # training does not ask: to find them on a CPU takes as long as the softmax
        predicted = torch.empty_like(answers[:0] if learns else answers)
        trains_weight = learns and weight.requires_grad
        of_hidden = torch.empty_like(hidden) if learns else None
        of_weight = torch.zeros_like(weight, dtype=exact) if trains_weight else None
        size = _rows_at_once(len(weight), hidden.device)
        for first in range(0, len(answers), size):
            part = slice(first, first + size)
            if of_hidden is None:
                losses[part], predicted[part] = _read(hidden[part], weight, answers[part], cap)
                continue
            losses[part], slope = _learned(hidden[part], weight, answers[part], cap)
            of_hidden[part] = slope.T @ weight
            if of_weight is not None:
                _add_product(of_weight, slope, hidden[part])
        if of_hidden is not None:
            ctx.save_for_backward(of_hidden, of_weight)
        ctx.mark_non_differentiable(losses, predicted)
        return losses.sum(), losses, predicted

    @staticmethod
    @written_out
    def backward(ctx: Any, of_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        to_hidden = (of_hidden * of_loss).to(of_hidden.dtype)
        to_weight = None if of_weight is None else (of_weight * of_loss).to(of_hidden.dtype)
        return to_hidden, to_weight, None, None, None


def _read(hidden: Tensor, weight: Tensor, answers: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """The losses of answers (rows,), and the tokens with the largest logits.

    Of logits (rows, vocab): a CPU finds the largest of a row far faster than that of a column.
    """
    logits = capped(hidden @ weight.T, cap).to(_exact(hidden))
    largest, predicted = logits.max(-1, keepdim=True)
    # the largest probability is at least 1 / vocabulary: its logarithm is as exact as that of the sum
    log_sum = largest - logits.softmax(-1).gather(1, predicted).log_()
    return (log_sum - logits.gather(1, answers[:, None]))[:, 0], predicted[:, 0]


def _learned(hidden: Tensor, weight: Tensor, answers: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """The losses of answers (rows,), and the slopes of their sum by the logits, (vocab, rows).

    Products with rows as columns take a fifth less of a CPU.
    """
    logits, asked = capped(weight @ hidden.T, cap).to(_exact(hidden)), answers[None]
    largest = logits.amax(0)
    probabilities = (logits - largest).exp_()
    total = probabilities.sum(0)
    losses = largest + total.log() - logits.gather(0, asked)[0]
    # softmax - one-hot, times the derivative of the cap
    probabilities /= total
    slope = probabilities.scatter_add_(0, asked, probabilities.new_full(asked.shape, -1.0))
    if cap:
        slope *= 1 - (logits / cap) ** 2
    return losses, slope.to(hidden.dtype)


def _exact(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right: in one pass over it, unless the product is of lower precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _rows_at_once(vocabulary: int, device: torch.device) -> int:
    rows = max(1, MOST_LOGITS // vocabulary)
    return min(rows, max(_FEWEST_ROWS, _CACHED_LOGITS // vocabulary)) if device.type == "cpu" else rows
