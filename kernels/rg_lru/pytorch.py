"""The real-gated linear recurrent unit on a CPU: few passes over memory, its gradient written out."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.gradients import written_out
from recallfront.kernels.linear_scan.pytorch import scan, scan_back

C = 8.0  # the constant c of arXiv:2402.19427 eq. (3)
_PART = 1 << 17  # numbers worked on at once, so that a chain of operations stays in the cache


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
    # baddbmm would spread the bias first
    r, i = torch.bmm(by_block, weight).add_(bias).sigmoid_().chunk(2, 2)
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


def _parts(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _PART // width)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def _blocks(weight: Tensor) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Of each block: its number, its columns, the weights (D / blocks, D / blocks) of r and of i."""
    size = weight.shape[1]
    for block, both in enumerate(weight):
        yield block, slice(block * size, (block + 1) * size), both[:, :size], both[:, size:]


class _RGLRU(torch.autograd.Function):
    """Both gates lie whole, (B T, D) each, so that passes over them are passes over unbroken memory."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, weight: Tensor, bias: Tensor, p: Tensor, starts: Tensor) -> Tensor:
        flat, size = v.view(-1, v.shape[2]), weight.shape[1]
        r, i, a, m = (torch.empty_like(flat) for _ in range(4))
        # h one token late, in the place of what is scanned
        before = v.new_empty(flat.shape[0] + 1, v.shape[2])
        before[0], b = 0, before[1:]
        for _, columns, of_r, of_i in _blocks(weight):
            torch.mm(flat[:, columns], of_r, out=r[:, columns])
            torch.mm(flat[:, columns], of_i, out=i[:, columns])
        rate = -C * F.softplus(p)
        bias_r, bias_i = bias[:, :size].flatten(), bias[:, size:].flatten()
        for part in _parts(*flat.shape):
            r[part].add_(bias_r).sigmoid_()
            i[part].add_(bias_i).sigmoid_()
            log_a = torch.mul(r[part], rate, out=a[part])
            torch.add(log_a, log_a, out=m[part]).expm1_().neg_().sqrt_()
            log_a.exp_()
            torch.mul(m[part], i[part], out=b[part]).mul_(flat[part])
        rows = _start_rows(starts, v)
        a[rows], m[rows], b[rows] = 0, 1, i[rows] * flat[rows]
        h = scan(a.view_as(v), b.view_as(v), v.new_zeros(v.shape[0], v.shape[2]), in_place=True)
        ctx.save_for_backward(v, weight, p, r, i, a, m, before)
        return h

    @staticmethod
    @written_out
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        v, weight, p, r, i, a, m, before = ctx.saved_tensors
        total = scan_back(a.view_as(v), grad_h)
        flat, size = v.view(-1, v.shape[2]), weight.shape[1]
        grad_v = total.view(flat.shape)
        grad_r, grad_i = torch.empty_like(r), torch.empty_like(i)
        grad_rate, bias_r, bias_i = (torch.zeros_like(p) for _ in range(3))
        rate = -C * F.softplus(p)
        for part in _parts(*flat.shape):
            g = grad_v[part]
            through = (g * flat[part]).mul_(i[part])  # what reaches m
            # dm / dlog a = -a^2 / m; the slope of the square root, 1 / (2 m), is kept below 1000
            steep = m[part].clamp(min=5e-4).reciprocal_().mul_(a[part])
            slope = g * before[part]
            # before a text's first token stands another's last
            slope[-part.start % v.shape[1] :: v.shape[1]] = 0
            slope.addcmul_(steep, through, value=-1).mul_(a[part]).mul_(r[part])
            grad_rate += slope.sum(0)
            bias_r += torch.addcmul(slope, slope, r[part], value=-1, out=grad_r[part]).mul_(rate).sum(0)
            through.mul_(m[part])
            bias_i += torch.addcmul(through, through, i[part], value=-1, out=grad_i[part]).sum(0)
            g.mul_(m[part]).mul_(i[part])  # in the place of the scan's sums
        grad_weight = torch.empty_like(weight)
        for block, columns, of_r, of_i in _blocks(weight):
            grads = grad_r[:, columns], grad_i[:, columns]
            torch.mm(flat[:, columns].T, grads[0], out=grad_weight[block, :, :size])
            torch.mm(flat[:, columns].T, grads[1], out=grad_weight[block, :, size:])
            grad_v[:, columns].addmm_(grads[0], of_r.T).addmm_(grads[1], of_i.T)
        grad_bias = torch.stack([bias_r.view(-1, size), bias_i.view(-1, size)], dim=1).flatten(1)
        return total, grad_weight, grad_bias, grad_rate * (-C * torch.sigmoid(p)), None


def _start_rows(starts: Tensor, v: Tensor) -> Tensor:
    """Rows of the flattened batch at which a document starts, the first of each text always."""
    starts = starts.expand(v.shape[0], v.shape[1]).clone()
    starts[:, 0] = True
    return starts.flatten().nonzero()[:, 0]
