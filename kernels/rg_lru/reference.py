"""Definition of the real-gated linear recurrent unit."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

C = 8.0  # the constant c of arXiv:2402.19427 eq. (3)


class _Root(torch.autograd.Function):
    """sqrt(x), with a slope of at most 1000: a -> 1 would make it infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sqrt()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = (4 * x).clamp(min=1e-6).rsqrt()
        return grad * slope


def rg_lru_reference(
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    p: Tensor,
    starts: Tensor,
    initial_state: Tensor | None = None,
    padding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + m_t i_t v_t (arXiv:2402.19427 eq. 1 to 4), for v (B, T, D).

    The logits of the gates r and i come from weight (blocks, D / blocks, 2 D / blocks) and bias (blocks,
    2 D / blocks), in the type of v. log a = -c softplus(p) r and m = sqrt(1 - a^2); where a document starts
    (starts (B or 1, T)) a is 0 and m is 1; where `padding` (B, T) a is 1 and nothing comes in. Sums in
    float32 at least. Returns h (B, T, D) in the type of v and the last h (B, D).
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    by_block = v.unflatten(-1, (weight.shape[0], -1))
    logits = torch.einsum("btgd,gde->btge", by_block, weight) + bias
    r, i = (gate.flatten(2) for gate in torch.sigmoid(logits.to(wide)).chunk(2, dim=-1))
    log_a = -C * F.softplus(p.to(wide)) * r
    root: Tensor = _Root.apply(-torch.expm1(2 * log_a))  # type: ignore[no-untyped-call]
    a = log_a.exp().masked_fill(starts[..., None], 0)
    b = root.masked_fill(starts[..., None], 1) * i * v.to(wide)
    if padding is not None:
        a, b = a.masked_fill(padding[..., None], 1), b.masked_fill(padding[..., None], 0)
    h = torch.zeros_like(b[:, 0]) if initial_state is None else initial_state.to(wide)
    states = []
    for step in range(v.shape[1]):
        h = a[:, step] * h + b[:, step]
        states.append(h)
    return torch.stack(states, dim=1).to(v.dtype), h
