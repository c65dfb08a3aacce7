"""The gated delta rule in chunks: one triangular inverse a chunk replaces the loop over its tokens."""

from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.common.chunks import join_chunks, place_chunks
from recallfront.kernels.common.decayed_products import bounded
from recallfront.kernels.common.gradients import written_out
from recallfront.kernels.gated_linear_attention.pytorch import pair_decay
from recallfront.kernels.generalized_delta_rule.pytorch import generalized_delta_rule_pytorch

_CHUNK = 32


def gated_delta_rule_pytorch(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """As `gated_delta_rule_reference`: a decay a head here, one a key dimension as a generalized delta rule."""
    if log_decay.shape[3] == 1:
        out, last = _DeltaRule.apply(  # type: ignore[no-untyped-call]
            q, k, v, beta, bounded(log_decay[..., 0]), scale, state
        )
        return out, last
    # beta k (v - k^T e^g S)^T is k (beta v)^T, and k times what the vector -beta e^g k reads of S
    beta = beta[..., None]
    return generalized_delta_rule_pytorch(
        q, k, beta * v, -beta * log_decay.exp() * k, None, log_decay, scale, state
    )


def _dots(x: Tensor, y: Tensor, memory: Tensor) -> Tensor:
    """Products of rows (..., D) with rows (..., 1)."""
    total: Tensor = torch.mul(x, y, out=memory).sum(-1, keepdim=True)
    return total


class _DeltaRule(torch.autograd.Function):
    """The form of arXiv:2406.06484 sec. 3, with a decay a head as in arXiv:2412.06464.

    Inside a chunk that starts from the state S, with G the sum of log decays up to a token and D_ij = e^{G_i - G_j},
    the corrected values c solve (I + A) c = beta (v - e^G k^T S), A_ij = beta_i D_ij k_i . k_j below the diagonal.
    Then o_i = e^{G_i} q_i^T S + sum_{j <= i} D_ij (q_i . k_j) c_j, and the next S is e^{G_C} S + sum_j e^{G_C - G_j}
    k_j c_j^T. Queries and keys read alike: they stand below each other, and share their products. Chunks come first,
    so that those of one place in the text lie together; only what needs the state is looped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_decay: Tensor,
        scale: float,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (batch, time, heads, keys), values = q.shape, v.shape[3]
        size = min(_CHUNK, time)
        shape = -(-time // size), batch * heads, size
        pair = q.new_empty(*shape[:2], 2 * size, keys)  # queries, then keys
        place_chunks(q, pair[:, :, :size]).mul_(scale)
        k = place_chunks(k, pair[:, :, size:])
        v = place_chunks(v, v.new_empty(*shape, values))
        beta, log_decay = (place_chunks(x[..., None], x.new_empty(*shape, 1)) for x in (beta, log_decay))
        decay = pair_decay(log_decay[..., 0])
        # since the chunk's start; until its end
        # a copy: kept for backward, a view would keep all of `decay`
        grown, left = log_decay.cumsum(2).exp_(), decay[:, :, -1, :, None].clone()
        decay = torch.cat([decay, decay.tril(-1)], dim=2)
        weights = (pair @ k.mT).mul_(decay)
        identity = torch.eye(size, dtype=q.dtype, device=q.device).expand(*shape, size)
        # only what lies below the diagonal is read: the ones on it need not be written
        inverse = torch.linalg.solve_triangular(
            weights[:, :, size:] * beta, identity, upper=False, unitriangular=True
        )
        reading, writing = pair * torch.cat([grown, -beta * grown], dim=2), k * left
        read = v.new_empty(*shape[:2], 2 * size, values)  # q^T S, then beta (v - k^T S), both with decay
        read[:, :, :size] = 0
        torch.mul(v, beta, out=read[:, :, size:])
        states, corrections = state.new_empty(shape[0] + 1, *state.flatten(0, 1).shape), torch.empty_like(v)
        states[0] = state.flatten(0, 1)
        for n in range(shape[0]):
            right = read[n].baddbmm_(reading[n], states[n])[:, size:]
            correction = torch.bmm(inverse[n], right, out=corrections[n])
            torch.mul(states[n], grown[n, :, -1:], out=states[n + 1]).baddbmm_(writing[n].mT, correction)
        out = weights[:, :, :size] @ corrections
        out += read[:, :, :size]
        ctx.save_for_backward(
            pair, v, beta, grown, left, decay, weights, inverse, reading, writing, states, corrections
        )
        ctx.sizes, ctx.scale = (batch, time), scale
        return join_chunks(out, batch, time), states[-1].view_as(state).clone()

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        # read once, or checkpointing refuses
        *inputs, weights, inverse, reading, writing, states, corrections = ctx.saved_tensors
        grown, (count, rows, size, values) = inputs[3], corrections.shape
        # gradients of the output, and below them of the right side
        both = grad.new_empty(count, rows, 2 * size, values)
        through = weights[:, :, :size].mT @ place_chunks(grad, both[:, :, :size])
        slopes = torch.empty_like(states)
        slopes[-1] = grad_last.flatten(0, 1)
        for n in reversed(range(count)):
            correction = torch.baddbmm(through[n], writing[n], slopes[n + 1])
            both[n, :, size:] = inverse[n].mT @ correction
            torch.mul(slopes[n + 1], grown[n, :, -1:], out=slopes[n]).baddbmm_(reading[n].mT, both[n])
        grads = [join_chunks(x, *ctx.sizes) for x in _gradients(inputs, states, corrections, both, slopes)]
        grads[0] *= ctx.scale
        grad_state = slopes[0].unflatten(0, (ctx.sizes[0], -1))
        return grads[0], grads[1], grads[2], grads[3][..., 0], grads[4][..., 0], None, grad_state


def _gradients(
    inputs: list[Tensor], states: Tensor, corrections: Tensor, both: Tensor, slopes: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, beta and log_decay (N, B H, C, ...) from those of the output and of the right side, one
    below the other, and of the states, for all chunks at once.

    Queries, and keys as rows of A and of the right side, grow by e^G; keys as columns by e^-G: so the gradient of G
    is q . dq + k . (dk as a row) - k . (dk as a column), and of beta what the row's values and keys give, without it.
    """
    pair, v, beta, grown, left, decay = inputs
    size = v.shape[2]
    q, k, right = pair[:, :, :size], pair[:, :, size:], both[:, :, size:]
    slope = (both @ corrections.mT).mul_(decay)
    slope[:, :, size:].neg_()
    diagonal = slope[:, :, :size].diagonal(dim1=-2, dim2=-1)
    own = diagonal[..., None].clone()
    diagonal.zero_()  # a token reads itself without decay: kept out of the decay's gradient, where it would be noise
    row = both @ states[:-1].mT
    row[:, :, :size] *= grown
    row[:, :, size:] *= -grown
    # of queries, and of keys as rows without beta
    row.flatten(0, 1).baddbmm_(slope.flatten(0, 1), k.flatten(0, 1))
    memory = torch.empty_like(pair)
    dots, memory = _dots(pair, row, memory), memory[:, :, size:]
    grad_q, key_row, key_dots = row[:, :, :size], row[:, :, size:], dots[:, :, size:]
    grad_total = (beta * key_dots).add_(dots[:, :, :size])

    grad_k = (corrections @ slopes[1:].mT).mul_(left)
    ends = states[:-1].flatten(2).flatten(0, 1)[:, None] @ slopes[1:].flatten(2).flatten(0, 1)[..., None]
    ends = ends.view_as(grown[:, :, -1:]).mul_(grown[:, :, -1:]).add_(_dots(k, grad_k, memory).sum(2, True))
    slope[:, :, size:] *= beta
    grad_k.flatten(0, 1).baddbmm_(slope.flatten(0, 1).mT, pair.flatten(0, 1))
    grad_total -= _dots(k, grad_k, memory)
    grad_total[:, :, -1:] += ends
    grad_decay = grad_total.flip(2).cumsum(2).flip(2)

    grad_k.addcmul_(key_row, beta).addcmul_(q, own)
    grad_q.addcmul_(k, own)
    grad_v = torch.empty_like(v)
    grad_beta = _dots(v, right, grad_v).add_(key_dots)
    torch.mul(right, beta, out=grad_v)
    return grad_q, grad_k, grad_v, grad_beta, grad_decay
