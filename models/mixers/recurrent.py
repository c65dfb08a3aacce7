"""The recurrent block of Hawk and Griffin (arXiv:2402.19427 sec. 2.4): convolution, then RG-LRU, gated."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from recallfront.kernels.linear_scan.operator import linear_scan, linear_scan_step
from recallfront.kernels.rg_lru.pytorch import rg_lru_pytorch, rg_lru_step_pytorch
from recallfront.models.gating import gated
from recallfront.models.layers import Drawn, Linear
from recallfront.models.mixers.base import Mixer
from recallfront.models.mixers.short_convolution import ConvTaps
from recallfront.models.state import Block, LayerState, Layout, Step

_C = 8.0  # the constant c of arXiv:2402.19427 eq. (3)


def _coefficients(
    r: Tensor, i: Tensor, v: Tensor, p: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a and b of h_t = a_t h_{t-1} + b_t for gates r, i (arXiv:2402.19427 eq. 1 to 4); a before resets, and
    m.

    The first token of a document is not scaled (m is 1), and nothing comes from before it (a is 0).
    """
    log_a = r * (-_C * F.softplus(p))
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
    @once_differentiable
    def backward(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        r, i, v, p, a, m, starts = ctx.saved_tensors
        rate = -_C * F.softplus(p)
        grad_mi = grad_b * v
        # the slope of the square root, 1 / (2 m), is kept below 1000: a -> 1 would make it infinite
        slope = (2 * m).clamp_(min=1e-3).reciprocal_()
        grad_log_a = grad_a - 2 * (a * slope).mul_(grad_mi).mul_(i)
        grad_log_a.mul_(a).masked_fill_(starts, 0.0)
        grad_p = -_C * torch.sigmoid(p) * (grad_log_a * r).sum((0, 1))
        grad_r = grad_log_a.mul_(rate).mul_(r).mul_(1 - r)
        grad_v = (grad_b * m).mul_(i)
        grad_i = grad_mi.mul_(m).mul_(i).mul_(1 - i)
        return grad_r, grad_i, grad_v, grad_p, None


class RGLRU(Drawn):
    """Real-gated linear recurrent unit: gates with block-diagonal weights, one block a head."""

    def __init__(self, width: int, num_blocks: int, lambda_init: str) -> None:
        super().__init__()
        block = width // num_blocks
        self.num_blocks, self.lambda_init = num_blocks, lambda_init
        # [block, in, out]: the outputs are the recurrence gate's, then the input gate's
        self.weight = nn.Parameter(torch.empty(num_blocks, block, 2 * block))
        self.bias = nn.Parameter(torch.empty(num_blocks, 2 * block))
        self.p = nn.Parameter(torch.empty(width))  # -Lambda of the paper

    def initialise(self, generator: Generator) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5, generator=generator)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            uniform = torch.rand(self.p.shape, generator=generator, dtype=torch.float64)
            if self.lambda_init == "paper":  # a^c is uniform in [0.9, 0.999] (sec. 2.4)
                log_a = torch.log(0.9 + uniform * (0.999 - 0.9)) / _C
            else:  # the released code draws a itself, uniform in the area of that ring
                low, high = 0.9**2 + 1e-8, 0.999**2 + 1e-8
                log_a = 0.5 * torch.log(low + uniform * (high - low))
            self.p.copy_(torch.log(torch.expm1(-log_a)))  # softplus(p) = -log a

    def forward(self, v: Tensor, starts: Tensor) -> Tensor:
        """h (B, T, width) for v (B, T, width), from no state; starts (B or 1, T): documents start."""
        if v.device.type == "cpu" and v.dtype in (torch.float32, torch.float64) and not is_compiling():
            return rg_lru_pytorch(v, self.weight, self.bias, self.p, starts)
        h, _ = linear_scan(*self.coefficients(v, starts))  # a is 0 at starts already
        return h

    def step(self, v: Tensor, hidden: Tensor, step: Step) -> Tensor:
        """One token on a CPU, v (B, width): `hidden` (B, width) is brought up to date and returned."""
        rate = step.keep((self, "rate"), lambda: (-_C * F.softplus(self.p)).view(self.num_blocks, 1, -1))
        starts: Tensor | bool | None = step.is_first
        if starts is None:
            starts = step.once("starts", lambda: step.lengths[:, None] == 0)
        return rg_lru_step_pytorch(v, self.weight, self.bias, rate, hidden, starts)

    def gate_logits(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the recurrence and the input gate (N, width) for v (N, width)."""
        if self.num_blocks == 1:
            r, i = torch.addmm(self.bias[0], v, self.weight[0]).chunk(2, dim=-1)
            return r, i
        blocks = v.view(v.shape[0], self.num_blocks, -1).transpose(0, 1)
        gates = torch.baddbmm(self.bias[:, None], blocks, self.weight).view(
            self.num_blocks, v.shape[0], 2, -1
        )
        r, i = gates.permute(2, 1, 0, 3).reshape(2, *v.shape)
        return r, i

    def coefficients(self, v: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """a and b (B, T, width), in float32 at least, for v (B, T, width); starts (B or 1, T): documents
        start.
        """
        r, i = (logit.view(v.shape) for logit in self.gate_logits(v.flatten(0, 1)))
        dtype = torch.promote_types(v.dtype, torch.float32)
        r, i, v, p, starts = r.to(dtype), i.to(dtype), v.to(dtype), self.p.to(dtype), starts[..., None]
        if not torch.is_grad_enabled():
            return _coefficients(torch.sigmoid(r), torch.sigmoid(i), v, p, starts)[:2]
        a, b = _Gates.apply(r, i, v, p, starts)  # type: ignore[no-untyped-call]
        return a, b


class RecurrentBlock(Mixer):
    """gelu(W_y x) * RG-LRU(conv(W_x x)), projected back."""

    def __init__(
        self, width: int, lru_width: int, num_blocks: int, conv_size: int, lambda_init: str, out_scale: float
    ) -> None:
        super().__init__()
        self.lru_width = lru_width
        self.branches = Linear(width, 2 * lru_width, bias=True, std=width**-0.5)  # y, then x
        self.conv = ConvTaps(lru_width, conv_size, std=math.sqrt(0.01 / conv_size))
        self.lru = RGLRU(lru_width, num_blocks, lambda_init)
        self.out = Linear(lru_width, width, bias=True, std=lru_width**-0.5 * out_scale)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        gate, u = torch.split(self.branches(x), self.lru_width, dim=-1)
        starts = layout.starts
        if starts is None:
            starts = torch.arange(x.shape[1], device=x.device)[None] == 0
        return self._gated(self.lru(self.conv(u, layout), starts), gate)

    def _gated(self, h: Tensor, gate: Tensor) -> Tensor:
        out: Tensor = self.out(gated(gate, h.to(gate.dtype), "gelu"))
        return out

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        # a carried state loses too much in bfloat16
        wide = torch.promote_types(dtype, torch.float32)
        return {
            "conv": self.conv.init_state(batch_size, device, dtype),
            "hidden": torch.zeros(batch_size, self.lru_width, device=device, dtype=wide),
        }

    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        gate, u = torch.split(self.branches(x), self.lru_width, dim=-1)
        v, state["conv"] = self.conv.extend(u, state["conv"], block)
        a, b = self.lru.coefficients(v, block.positions == 0)
        if block.padding is not None:  # padding leaves the state as it is
            a, b = a.masked_fill(block.padding[..., None], 1), b.masked_fill(block.padding[..., None], 0)
        h, state["hidden"] = linear_scan(a, b, initial_state=state["hidden"])
        return self._gated(h, gate)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        gate, u = torch.split(self.branches(x), self.lru_width, dim=-1)
        v, state["conv"] = self.conv.step(u, state["conv"])
        if x.device.type == "cpu" and x.dtype == state["hidden"].dtype:
            return self._gated(self.lru.step(v, state["hidden"], step), gate)
        starts = step.once("starts", lambda: step.lengths[:, None] == 0)
        a, b = self.lru.coefficients(v[:, None], starts)
        h, state["hidden"] = linear_scan_step(a[:, 0], b[:, 0], state["hidden"])
        return self._gated(h, gate)
