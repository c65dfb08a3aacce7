"""The generalized delta rule in chunks: one triangular system a chunk replaces the loop over its tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.chunks import from_chunks, into_chunks
from recallfront.kernels.common.decayed_products import decayed_products

_CHUNK = 32  # a power of two: chunks are made by joining halves


def generalized_delta_rule_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor | None,
    log_decay: Tensor,
    scale: float,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `generalized_delta_rule_reference`, exact however strong the decay; b None stands for b = k.

    Inside a chunk that starts from the state S, with G the sum of log decays up to a token's end, what the tokens
    read of the state, u_i = a_i^T S_{i-1}, solves (I - A) u = e^{G_{i-1}} a^T S + B v, with
    A_ij = sum_d a_id b_jd e^{G_{i-1,d} - G_{j,d}} below the diagonal and B the same of k for b. Then
    o_i = e^{G_i} q_i^T S + sum_{j <= i} (q_i . k_j) v_j + (q_i . b_j) u_j with the decay from j to i in each product,
    and the next S is e^{G_C} S + sum_j e^{G_C - G_j} (k_j v_j^T + b_j u_j^T). With b = k, v + u is solved for at once.
    """
    time, values = v.shape[1], v.shape[3]
    chunk = min(_CHUNK, 1 << (time - 1).bit_length())
    writers = [k] if b is None else [k, b]
    q, v, a, log_decay = (into_chunks(x, chunk) for x in (q * scale, v, a, log_decay))
    writers = [into_chunks(x, chunk) for x in writers]
    # a token reads with a before its own decay: as if its predecessor did so after its own
    readers = torch.stack([q, F.pad(a[..., 1:, :], (0, 0, 0, 1))], dim=-2)
    weights, since, until = decayed_products(readers, torch.stack(writers, dim=-2), log_decay)
    for_q, for_next = weights.unbind(-3)
    by_q, by_a = for_q.unbind(-1), F.pad(for_next[..., :-1, :, :], (0, 0, 0, 0, 1, 0)).unbind(-1)

    written = writers[-1] * until.exp()
    reading = a * F.pad(since[..., :-1, :], (0, 0, 1, 0)).exp()
    right = v if b is None else by_a[0] @ v
    solved = torch.linalg.solve_triangular(
        -by_a[-1], torch.cat([right, reading], dim=-1), upper=False, unitriangular=True
    )
    fixed, moving = solved.split([values, reading.shape[-1]], dim=-1)
    end = since[..., -1, :, None].exp()
    own = None if b is None else ((writers[0] * until.exp()).mT @ v).unbind(2)
    before, corrections = [], []
    for n, parts in enumerate(zip(*(x.unbind(2) for x in (fixed, moving, end, written)), strict=True)):
        before.append(state)
        corrections.append(parts[0] + parts[1] @ state)
        state = parts[2] * state + parts[3].mT @ corrections[-1]
        state = state if own is None else state + own[n]
    out = by_q[-1] @ torch.stack(corrections, dim=2) + (q * since.exp()) @ torch.stack(before, dim=2)
    if b is not None:
        out = out + by_q[0] @ v
    return from_chunks(out, time), state
