"""The gated delta rule in chunks: one triangular solve a chunk replaces the loop over its tokens."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    before, corrections, last = _scan(u, w, k, whole, state)
    out = q @ before + weights @ corrections
    return from_chunks(out, time), last


def _scan(u: Tensor, w: Tensor, k: Tensor, whole: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c_n = u_n - w_n S_n and S_{n+1} = whole_n S_n + k_n c_n, from S_0 = state (B, H, K, V).

    u (B, H, N, C, V), w (B, H, N, C, K), k (B, H, N, K, C), whole (B, H, N, 1, 1). Returns all S_n, all c_n and the
    last S.
    """
    batch, heads, count, size, values = u.shape
    keys = w.shape[-1]
    flat = [x.flatten(0, 1) for x in (u, w, k, whole)]
    before, corrections, last = _Scan.apply(*flat, state.flatten(0, 1))  # type: ignore[no-untyped-call]
    return (
        before.view(batch, heads, count, keys, values),
        corrections.view(batch, heads, count, size, values),
        last.view(batch, heads, keys, values),
    )


class _Scan(torch.autograd.Function):
    """Three products and sums a chunk each way; what the gradient needs of all chunks is done at once."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, w: Tensor, k: Tensor, whole: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        before, corrections = u.new_empty(*u.shape[:2], *state.shape[1:]), torch.empty_like(u)
        state = state.clone()
        for n, (u_n, w_n, k_n, whole_n) in enumerate(_by_chunk(u, w, k, whole)):
            before[:, n] = state
            correction = torch.baddbmm(u_n, w_n, state, alpha=-1, out=corrections[:, n])
            state.mul_(whole_n).baddbmm_(k_n, correction)
        ctx.save_for_backward(w, k, whole, before, corrections)
        return before, corrections, state

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_before: Tensor, grad_corrections: Tensor, grad_last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        w, k, whole, before, corrections = ctx.saved_tensors
        grad_after = torch.empty_like(before)  # of the state after each chunk
        grad_u = torch.empty_like(corrections)
        chunks = list(enumerate(_by_chunk(w, k, whole, grad_before, grad_corrections)))
        total = grad_last
        for n, (w_n, k_n, whole_n, before_n, correction_n) in reversed(chunks):
            grad_after[:, n] = total
            reached = torch.baddbmm(correction_n, k_n.transpose(1, 2), total, out=grad_u[:, n])
            total = torch.addcmul(before_n, total, whole_n).baddbmm_(w_n.transpose(1, 2), reached, alpha=-1)
        grad_w = (grad_u @ before.transpose(-1, -2)).neg_()
        grad_k = grad_after @ corrections.transpose(-1, -2)
        grad_whole = (grad_after * before).sum((-2, -1), keepdim=True)
        return grad_u, grad_w, grad_k, grad_whole, total


def _by_chunk(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.unbind(1) for tensor in tensors), strict=True)
