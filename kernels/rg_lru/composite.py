"""The real-gated linear recurrent unit in two parts, gates and scan: for any type, device and state."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.gradients import written_out
from recallfront.kernels.rg_lru.reference import C


def gate_logits(v: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the recurrence and the input gate (N, D) for v (N, D)."""
    blocks = weight.shape[0]
    if blocks == 1:
        r, i = torch.addmm(bias[0], v, weight[0]).chunk(2, dim=-1)
        return r, i
    by_block = v.view(v.shape[0], *weight.shape[:2]).transpose(0, 1)
    gates = torch.baddbmm(bias[:, None], by_block, weight).view(blocks, v.shape[0], 2, weight.shape[1])
    r, i = gates.permute(2, 1, 0, 3).reshape(2, *v.shape)
    return r, i


def coefficients(v: Tensor, weight: Tensor, bias: Tensor, p: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """a and b (B, T, D) of h_t = a_t h_{t-1} + b_t, in float32 at least; arguments as in `rg_lru_reference`."""
    r, i = (logit.view(v.shape) for logit in gate_logits(v.flatten(0, 1), weight, bias))
    dtype = torch.promote_types(v.dtype, torch.float32)
    r, i, v, p, starts = r.to(dtype), i.to(dtype), v.to(dtype), p.to(dtype), starts[..., None]
    if not torch.is_grad_enabled():
        return _coefficients(torch.sigmoid(r), torch.sigmoid(i), v, p, starts)[:2]
    a, b = _Gates.apply(r, i, v, p, starts)  # type: ignore[no-untyped-call]
    return a, b


def _coefficients(
    r: Tensor, i: Tensor, v: Tensor, p: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a and b of h_t = a_t h_{t-1} + b_t for gates r, i (arXiv:2402.19427 eq. 1 to 4); a before resets, and
    m.

    The first token of a document is not scaled (m is 1), and nothing comes from before it (a is 0).
    """
    log_a = r * (-C * F.softplus(p))
    a = torch.exp(log_a)
    m = torch.expm1(log_a.mul_(2)).neg_().sqrt_().masked_fill_(starts, 1.0)
    return a.masked_fill(starts, 0.0), (m * i).mul_(v), a, m


class _Gates(torch.autograd.Function):
    """`_coefficients` of the gates' logits with their gradient written out: a dozen passes over memory fewer."""

    @staticmethod
    def forward(
        ctx: Any, r_logit: Tensor, i_logit: Tensor, v: Tensor, p: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        r, i = torch.sigmoid(r_logit), torch.sigmoid(i_logit)
        decay, entering, a, m = _coefficients(r, i, v, p, starts)
        ctx.save_for_backward(r, i, v, p, a, m, starts)
        return decay, entering

    @staticmethod
    @written_out
    def backward(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        r, i, v, p, a, m, starts = ctx.saved_tensors
        rate = -C * F.softplus(p)
        grad_mi = grad_b * v
        # the slope of the square root, 1 / (2 m), is kept below 1000: a -> 1 would make it infinite
        slope = (2 * m).clamp_(min=1e-3).reciprocal_()
        grad_log_a = grad_a - 2 * (a * slope).mul_(grad_mi).mul_(i)
        grad_log_a.mul_(a).masked_fill_(starts, 0.0)
        grad_p = -C * torch.sigmoid(p) * (grad_log_a * r).sum((0, 1))
        grad_r = grad_log_a.mul_(rate).mul_(r).mul_(1 - r)
        grad_v = (grad_b * m).mul_(i)
        grad_i = grad_mi.mul_(m).mul_(i).mul_(1 - i)
        return grad_r, grad_i, grad_v, grad_p, None
