"""Products of a chunk's tokens with the decay between them, a decay a key dimension, exact however strong it is."""

import torch
import torch.nn.functional as F
from torch import Tensor

# e^g is 0 from here on down, in the type of the sums
_VANISHING = {torch.float32: -104.0, torch.float64: -746.0}


def bounded(log_decay: Tensor) -> Tensor:
    """The log decays, at least as large as where e^g is 0: then sums of them have differences, and keep their digits.

    A decay of minus infinity, as a gate in log space has it if it lets everything go, would make NaN of them.
    """
    return log_decay.clamp(min=_VANISHING[log_decay.dtype])


def decayed_products(readers: Tensor, writers: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum_d r_id w_jd exp(G_id - G_jd) for tokens j <= i and 0 elsewhere, of a chunk of a power of two tokens.

    readers (..., C, R, K) and writers (..., C, W, K): R and W vectors a token; log_decay (..., C, K), G its sum up to
    a token's end. Returns the products (..., C, R, C, W), and the sums of log decays since the chunk's start, the
    token's own included, and until the chunk's end, without it, both (..., C, K).

    Blocks of tokens are joined in pairs, from single tokens up. Between the halves of a pair the decay is the product
    of that since the later half's start and that until the earlier half's end. Neither exceeds 1, so nothing overflows;
    and sums of decays are never subtracted, so a strong decay takes no digits from the mild ones beside it.
    """
    size, reads, writes = log_decay.shape[-2], readers.shape[-2], writers.shape[-2]
    weights = readers @ writers.mT
    since, until = log_decay, torch.zeros_like(log_decay)
    span = 1
    # a round: (..., blocks, span, K) becomes pairs of (..., pairs, span, K); weights (..., blocks, span R, span W)
    while span < size:
        since_0, since_1 = since.unflatten(-2, (-1, 2, span)).unbind(-3)
        until_0, until_1 = until.unflatten(-2, (-1, 2, span)).unbind(-3)
        late = readers.unflatten(-3, (-1, 2, span)).unbind(-4)[1] * since_1[..., None, :].exp()
        early = writers.unflatten(-3, (-1, 2, span)).unbind(-4)[0] * until_0[..., None, :].exp()
        across = late.flatten(-3, -2) @ early.flatten(-3, -2).mT
        own_0, own_1 = weights.unflatten(-3, (-1, 2)).unbind(-3)
        rows = F.pad(own_0, (0, span * writes)), torch.cat([across, own_1], dim=-1)
        weights = torch.cat(rows, dim=-2)
        total_0, total_1 = since_0[..., -1:, :], since_1[..., -1:, :]
        since = torch.cat([since_0, since_1 + total_0], dim=-2).flatten(-3, -2)
        until = torch.cat([until_0 + total_1, until_1], dim=-2).flatten(-3, -2)
        span *= 2
    return weights.squeeze(-3).unflatten(-2, (size, reads)).unflatten(-1, (size, writes)), since, until
