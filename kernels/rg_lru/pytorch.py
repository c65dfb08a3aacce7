"""The real-gated linear recurrent unit on a CPU: few passes over memory, its gradient written out."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recallfront.kernels.linear_scan.pytorch import scan, scan_back

C = 8.0  # the constant c of arXiv:2402.19427 eq. (3)
_ROWS = 256  # tokens worked on at once, so that a chain of operations stays in the cache


def rg_lru_pytorch(v: Tensor, weight: Tensor, bias: Tensor, p: Tensor, starts: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + m_t i_t v_t with a = exp(-c softplus(p) r), m = sqrt(1 - a^2) (arXiv:2402.19427 eq. 1 to 4).

    v (B, T, D); weight (blocks, D / blocks, 2 D / blocks) and bias (blocks, 2 D / blocks) give the logits of the gates
    r, then i; p (D); starts (1 or B, T): nothing comes from before such a token, and its m is 1. No state comes in, so
    the first token is a start whatever `starts` says. Returns h (B, T, D).
    """
    h: Tensor = _RGLRU.apply(v.contiguous(), weight, bias, p, starts)  # type: ignore[no-untyped-call]
    return h


def rg_lru_step_pytorch(
    v: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, hidden: Tensor, starts: Tensor | bool
) -> Tensor:
    """One token of `rg_lru_pytorch`, v (B, D), in few operations: each costs more than what it computes.

    bias (blocks, 1, 2 D / blocks); rate (blocks, 1, D / blocks): -c softplus(p); hidden (B, D), contiguous, is updated
    in place and returned; starts (B, 1) bool, or one truth for all rows.
    """
    blocks, size, _ = weight.shape
    by_block, state = _by_block(v, blocks), _by_block(hidden, blocks)
    r, i = (
        torch.bmm(by_block, weight).add_(bias).sigmoid_().chunk(2, 2)
    )  # baddbmm would spread the bias first
    log_a = r * rate
    m = (log_a + log_a).expm1_().neg_().sqrt_()
    a = log_a.exp_()
    if starts is True:
        a.zero_()
        m.fill_(1)
    elif starts is not False:
        a.masked_fill_(starts, 0)
        m.masked_fill_(starts, 1)
    torch.addcmul(m.mul_(i).mul_(by_block), a, state, out=state)
    return hidden


def _by_block(x: Tensor, blocks: int) -> Tensor:
    """(N, D) seen as (blocks, N, D / blocks)."""
    return x.view(x.shape[0], blocks, x.shape[1] // blocks).transpose(0, 1)


def _parts(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _ROWS):
        yield slice(start, start + _ROWS)


class _RGLRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, weight: Tensor, bias: Tensor, p: Tensor, starts: Tensor) -> Tensor:
        blocks, size, _ = weight.shape
        flat = _by_block(v.view(-1, v.shape[2]), blocks)
        gates = torch.baddbmm(bias[:, None], flat, weight)
        a, b, m = torch.empty_like(v), torch.empty_like(v), torch.empty_like(v)
        by_block = [_by_block(x.view(-1, v.shape[2]), blocks) for x in (a, b, m)]
        rate = (-C * F.softplus(p)).view(blocks, 1, size)
        for part in _parts(flat.shape[1]):
            r, i = gates[:, part].sigmoid_().chunk(2, dim=-1)
            a_part, b_part, m_part = (x[:, part] for x in by_block)
            torch.mul(r, rate, out=a_part)
            torch.mul(a_part, 2, out=m_part).expm1_().neg_().sqrt_()
            a_part.exp_()
            torch.mul(m_part, i, out=b_part).mul_(flat[:, part])
        rows = _start_rows(starts, v)
        a.view(-1, v.shape[2])[rows] = 0
        m.view(-1, v.shape[2])[rows] = 1
        b.view(-1, v.shape[2])[rows] = (gates[:, rows, size:] * flat[:, rows]).transpose(0, 1).flatten(1)
        h = scan(a, b, v.new_zeros(v.shape[0], v.shape[2]))
        ctx.save_for_backward(v, weight, p, gates, a, m, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        v, weight, p, gates, a, m, h = ctx.saved_tensors
        blocks, size, _ = weight.shape
        width = v.shape[2]
        total = scan_back(a, grad_h)
        # what reached h_{t-1} through a_t; nothing comes from before the first token, whose a is 0
        grad_a = torch.empty_like(a)
        torch.mul(total[:, 1:], h[:, :-1], out=grad_a[:, 1:])
        grad_a[:, 0] = 0
        flat_v, flat_a, flat_m, slope, grad_v = (
            _by_block(x.view(-1, width), blocks) for x in (v, a, m, grad_a, total)
        )
        rate = (-C * F.softplus(p)).view(blocks, 1, size)
        grad_gates = torch.empty_like(gates)
        grad_rate = torch.zeros(blocks, size, dtype=p.dtype)
        for part in _parts(flat_v.shape[1]):
            r, i = gates[:, part].chunk(2, dim=-1)
            grad_r, grad_i = grad_gates[:, part].chunk(2, dim=-1)
            g, slope_part, m_part, a_part = grad_v[:, part], slope[:, part], flat_m[:, part], flat_a[:, part]
            # grad_i holds what reaches m i, then what reaches i, then what reaches i's logit
            torch.mul(g, flat_v[:, part], out=grad_i)
            # dm / dlog a = -a^2 / m; the slope of the square root, 1 / (2 m), is kept below 1000
            steep = (2 * m_part).clamp_(min=1e-3).reciprocal_().mul_(a_part).mul_(grad_i).mul_(i)
            slope_part.add_(steep, alpha=-2).mul_(a_part)
            g.mul_(m_part)  # in the place of the scan's sums
            torch.mul(slope_part, r, out=steep)
            grad_rate += steep.sum(1)
            torch.mul(steep, 1 - r, out=grad_r).mul_(rate)
            grad_i.mul_(m_part).mul_(i).mul_(1 - i)
            g.mul_(i)
        grad_weight = flat_v.transpose(1, 2) @ grad_gates
        grad_v += grad_gates @ weight.transpose(1, 2)
        grad_p = grad_rate.view(-1) * (-C * torch.sigmoid(p))
        return total, grad_weight, grad_gates.sum(1), grad_p, None


def _start_rows(starts: Tensor, v: Tensor) -> Tensor:
    """Rows of the flattened batch at which a document starts, the first of each text always."""
    starts = starts.expand(v.shape[0], v.shape[1]).clone()
    starts[:, 0] = True
    return starts.flatten().nonzero()[:, 0]
