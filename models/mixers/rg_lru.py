"""The recurrent block of Hawk and Griffin (arXiv:2402.19427 sec. 2.4): convolution, then RG-LRU, gated."""

import math
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from recallfront.kernels.rg_lru.operator import rg_lru, rg_lru_step
from recallfront.kernels.rg_lru.pytorch import rg_lru_step_pytorch
from recallfront.kernels.rg_lru.reference import C
from recallfront.models.configs.mixer import MixerConfig, Projection, Rows
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.convolution import ConvTaps
from recallfront.models.parts.gating import gated
from recallfront.models.parts.layers import Drawn, Linear
from recallfront.models.parts.lean import MixerStep, lean_add, lean_map
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class RGLRUConfig(MixerConfig):
    """The recurrent block of Hawk and Griffin: a diagonal recurrence whose gates read the input."""

    letter: ClassVar[str] = "R"
    is_architecture: ClassVar[bool] = False  # that is Hawk, whose channel mixer has biases

    mixer: Literal["rg_lru"] = "rg_lru"
    lru_width: int | None = Field(
        default=None,
        ge=1,
        description="Width of the recurrence; null is the model's. The paper's models have about 4/3 of it.",
    )
    conv_size: int = Field(default=4, ge=1, description="Taps of the convolution before the recurrence.")
    gate_blocks: int | None = Field(
        default=None, ge=1, description="Diagonal blocks of the gates' matrices; null is num_heads."
    )
    lambda_init: Literal["paper", "recurrentgemma"] = Field(
        default="paper", description="Whose initial decays are drawn."
    )

    @model_validator(mode="after")
    def _check_blocks(self) -> Self:
        name = "num_heads" if self.gate_blocks is None else "gate_blocks"
        self._check_divides(name, self.num_gate_blocks, "lru_width", self.recurrent_width)
        return self

    def build(self) -> "RecurrentBlock":
        return RecurrentBlock(self)

    @property
    def recurrent_width(self) -> int:
        return self.lru_width or self.width

    @property
    def num_gate_blocks(self) -> int:
        return self.gate_blocks or self.num_heads

    def matrix_entries(self) -> int:
        lru = self.recurrent_width
        return 3 * self.width * lru + 2 * lru * lru // self.num_gate_blocks

    def parameters(self) -> int:
        # biases of the branches, the convolution, the gates and the way out; the rates
        vectors = (2 + self.conv_size + 1 + 2 + 1) * self.recurrent_width + self.width
        return self.matrix_entries() + vectors

    def mixing_flops(self, length: int) -> int:
        return 2 * length * (self.conv_size + 1) * self.recurrent_width

    def state_elements(self, context_length: int) -> int:
        return self.recurrent_width * self.conv_size

    def resized(self, width: int, num_heads: int) -> dict[str, Any]:
        if self.lru_width is None or width == self.width:
            return {}
        # keep the ratio to the width, as a multiple of the gates' blocks
        blocks = self.gate_blocks or num_heads
        return {"lru_width": max(1, round(self.lru_width * width / self.width / blocks)) * blocks}

    def projection(self) -> Projection:
        lru = self.recurrent_width
        fits = lru == self.width
        inner = {"v": Rows(self.num_heads, self.head_dim)} if fits else {"inner": Rows(1, lru)}
        return Projection("branches", {"gate": Rows(1, lru)} | inner)

    def hindrance(self) -> str:
        return f"lru_width is {self.recurrent_width}; values and the way out fit if it is {self.width}"


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
                log_a = torch.log(0.9 + uniform * (0.999 - 0.9)) / C
            else:  # the released code draws a itself, uniform in the area of that ring
                low, high = 0.9**2 + 1e-8, 0.999**2 + 1e-8
                log_a = 0.5 * torch.log(low + uniform * (high - low))
            self.p.copy_(torch.log(torch.expm1(-log_a)))  # softplus(p) = -log a

    def forward(
        self,
        v: Tensor,
        starts: Tensor | None,
        initial_state: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """h (B, T, width) and the last h for v (B, T, width); starts (B or 1, T): documents start, by default
        where the rows do.
        """
        return rg_lru(
            v,
            self.weight.to(v.dtype),
            self.bias.to(v.dtype),
            self.p,
            starts=starts,
            initial_state=initial_state,
            padding=padding,
        )

    def step(self, v: Tensor, hidden: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """One token, v (B, width): h and the state, in the memory of `hidden` (B, width)."""
        rate = step.keep((self, "rate"), lambda: -C * F.softplus(self.p.to(hidden.dtype)))
        starts = step.once("starts", lambda: step.lengths[:, None] == 0)
        return rg_lru_step(v, self.weight, self.bias, self.p, hidden, starts=starts, rate=rate, in_place=True)


class RecurrentBlock(Mixer):
    """gelu(W_y x) * RG-LRU(conv(W_x x)), projected back."""

    def __init__(self, config: RGLRUConfig) -> None:
        super().__init__()
        width, self.lru_width = config.width, config.recurrent_width
        self.branches = Linear(width, 2 * self.lru_width, bias=True, std=width**-0.5)  # y, then x
        self.conv = ConvTaps(self.lru_width, config.conv_size, std=math.sqrt(0.01 / config.conv_size))
        self.lru = RGLRU(self.lru_width, config.num_gate_blocks, config.lambda_init)
        self.out = Linear(self.lru_width, width, bias=True, std=self.lru_width**-0.5 * config.out_scale)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        gate, u = torch.split(self.branches(x), self.lru_width, dim=-1)
        h, _ = self.lru(self.conv(u, layout), layout.starts)
        return self._gated(h, gate)

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
        h, state["hidden"] = self.lru(v, block.positions == 0, state["hidden"], block.padding)
        return self._gated(h, gate)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        gate, u = torch.split(self.branches(x), self.lru_width, dim=-1)
        v, state["conv"] = self.conv.step(u, state["conv"])
        h, state["hidden"] = self.lru.step(v, state["hidden"], step)
        return self._gated(h, gate)

    def lean_step(self) -> MixerStep:
        branches, out = lean_map(self.branches), lean_add(self.out)
        taps, conv_bias = self.conv.taps.detach().t().contiguous(), self.conv.bias
        lru = self.lru
        weight, bias = lru.weight.detach(), lru.bias.detach()[:, None]
        rate = (-C * F.softplus(lru.p.detach())).view(lru.num_blocks, 1, -1)
        assert conv_bias is not None
        shift = conv_bias.detach()
        cat, gelu = torch.cat, F.gelu

        def run(residual: Tensor, x: Tensor, state: LayerState, step: Step) -> None:
            gate, u = branches(x).chunk(2, 1)
            history = cat([state["conv"], u.unsqueeze(1)], 1)
            state["conv"].copy_(history[:, 1:])
            v = (history * taps).sum(1).add_(shift)
            starts = step.is_first
            if starts is None:
                starts = step.once("starts", lambda: step.lengths[:, None] == 0)
            h = rg_lru_step_pytorch(v, weight, bias, rate, state["hidden"], starts)
            out(residual, gelu(gate, approximate="tanh").mul_(h))

        return run
