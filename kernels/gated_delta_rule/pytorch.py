"""The gated delta rule in chunks: one triangular solve a chunk replaces the loop over its tokens."""

import torch
from torch import Tensor

from recallfront.kernels.chunks import from_chunks, into_chunks
from recallfront.kernels.gated_linear_attention.pytorch import pair_decay

_CHUNK = 32


def gated_delta_rule_pytorch(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """As `gated_delta_rule_reference`, by the WY form of arXiv:2406.06484 sec. 3, with decay as in
    arXiv:2412.06464.

    Inside a chunk the corrected values u solve (I + L) u = beta (v - e^G k^T S), L_ij = beta_i e^{G_i - G_j}
    k_i . k_j below the diagonal; S is the state before the chunk. Everything that does not need S is done for
    all chunks at once.
    """
    time, values = q.shape[1], v.shape[3]
    chunk = min(_CHUNK, time)
    q, k, v, beta, g = (
        into_chunks(x, chunk) for x in (q * scale, k, v, beta[..., None], log_decay[..., None])
    )
    total = g.cumsum(3)
    decay = pair_decay(total[..., 0])
    grown = total.exp()
    system = (beta * (k @ k.transpose(-1, -2)) * decay).tril(-1)
    right = beta * torch.cat([v, grown * k], dim=-1)
    # only what lies below the diagonal is read: the ones on it need not be written
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    u, w = torch.split(solved, [values, k.shape[-1]], dim=-1)
    weights = (q @ k.transpose(-1, -2)) * decay
    q, k = q * grown, (k * (total[:, :, :, -1:] - total).exp()).transpose(-1, -2)
    whole = grown[:, :, :, -1:]
    before, corrections = [], []
    # taken apart at once: a gradient a slice would be as large as the whole
    for u_n, w_n, k_n, whole_n in zip(*(x.unbind(2) for x in (u, w, k, whole)), strict=True):
        before.append(state)
        corrections.append(u_n - w_n @ state)
        state = whole_n * state + k_n @ corrections[-1]
    out = q @ torch.stack(before, dim=2) + weights @ torch.stack(corrections, dim=2)
    return from_chunks(out, time), state
