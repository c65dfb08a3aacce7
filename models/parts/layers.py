"""The parts that all architectures share: linear maps, norms, channel mixers, rotary positions."""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recallfront.kernels.common.gradients import written_out
from recallfront.kernels.gated_product.operator import Nonlinearity, gated_halves
from recallfront.kernels.rms_norm.operator import rms_norm
from recallfront.models.parts.gating import add_gated_mlp, trains_on_cpu


class Drawn(nn.Module):
    """A module whose own parameters are drawn from a given generator, never from the global one."""

    def initialise(self, generator: Generator) -> None:
        """Draw the parameters that this module holds itself (not its children's)."""
        raise NotImplementedError


class Linear(nn.Linear, Drawn):
    """x W^T + b, the weight normal with standard deviation `std`, the bias 0."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, std: float) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.std = std

    def reset_parameters(self) -> None:
        """Nothing is drawn when a layer is made: that would use the global generator."""

    def initialise(self, generator: Generator) -> None:
        nn.init.normal_(self.weight, std=self.std, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class RMSNorm(Drawn):
    """x / sqrt(mean x^2 + eps) * (1 + scale), the scale from 0, so that weight decay pulls the gain to 1."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.empty(width))

    def initialise(self, generator: Generator) -> None:
        nn.init.zeros_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, 1 + self.scale, eps=self.eps)


class LayerNorm(Drawn):
    """Layer normalisation with gain and bias."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def initialise(self, generator: Generator) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class MLP(nn.Module):
    """Channel mixer: gated (GeGLU, SwiGLU: the first half of `up` goes through the nonlinearity) or plain
    GeLU.
    """

    def __init__(
        self, width: int, hidden: int, kind: str, *, bias: bool, std: float | None, out_scale: float
    ) -> None:
        super().__init__()
        self.kind = kind
        branches = 1 if kind == "gelu" else 2
        self.up = Linear(width, branches * hidden, bias=bias, std=std or width**-0.5)
        self.down = Linear(hidden, width, bias=bias, std=(std or hidden**-0.5) * out_scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "gelu":
            return self.down(F.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]
        return self.down(gated_halves(self.up(x), self._nonlinearity))  # type: ignore[no-any-return]

    def add_to(self, x: Tensor, norm: nn.Module) -> Tensor:
        """x + mlp(norm(x))."""
        # an adapter (LoRA) may stand in the place of a linear map, and hooks want to see what goes through
        plain = type(self.up) is type(self.down) is Linear and self.kind != "gelu" and trains_on_cpu(x)
        watched = any(map(_is_watched, (self, norm, self.up, self.down)))
        if not plain or watched or not isinstance(norm, RMSNorm):
            return x + self(norm(x))  # type: ignore[no-any-return]
        up, down = (self.up.weight, self.up.bias), (self.down.weight, self.down.bias)
        return add_gated_mlp(x, (1 + norm.scale, norm.eps), up, down, self._nonlinearity)

    @property
    def _nonlinearity(self) -> Nonlinearity:
        return "gelu" if self.kind == "geglu" else "silu"


def _is_watched(module: nn.Module) -> bool:
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return any(hooks)


def _rotary_table(
    size: int, dim: int, theta: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (size, dim) of the first `size` positions, each frequency twice (rotate-half)."""
    frequency = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(size, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    sin[:, : dim // 2] *= -1  # rotate-half: (-x2, x1); the sign is kept in the table
    return cos.to(dtype).to(device), sin.to(dtype).to(device)


@lru_cache(maxsize=32)
def _kept_rotary_table(
    size: int, dim: int, theta: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # made while decoding, it may be used in training
        return _rotary_table(size, dim, theta, dtype, device)


def rotary_table(
    longest: int, dim: int, theta: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (at least `longest`, dim), made once for few sizes."""
    size = 1 << max(longest - 1, 1).bit_length()
    make = _rotary_table if torch.compiler.is_compiling() else _kept_rotary_table
    return make(size, dim, theta, dtype, device)


def rotate(x: Tensor, positions: Tensor | int, dim: int, longest: int, theta: float = 10000.0) -> Tensor:
    """Rotary positions (arXiv:2104.09864) on the first `dim` dimensions of x (B, T, H, D).

    positions: (B, T), or the position of the first token where all rows count alike; none reaches `longest`.
    """
    cos, sin = rotary_table(longest, dim, theta, x.dtype, x.device)
    if isinstance(positions, int):
        cos, sin = (
            cos[positions : positions + x.shape[1], None],
            sin[positions : positions + x.shape[1], None],
        )
    else:
        cos, sin = cos[positions][:, :, None], sin[positions][:, :, None]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        y: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return y
    return _rotated(x, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    dim = cos.shape[-1]
    turned = x[..., :dim]
    turned = torch.addcmul(turned * cos, turned.roll(dim // 2, dims=-1), sin)
    return turned if dim == x.shape[-1] else torch.cat([turned, x[..., dim:]], dim=-1)


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation back: one pass, where the composite form's takes five."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sinusoidal position embeddings (arXiv:1706.03762 sec. 3.5): positions (B, T) -> (B, T, width)."""
    frequency = torch.exp(
        torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) * (-math.log(10000.0) / width)
    )
    angle = positions[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)
