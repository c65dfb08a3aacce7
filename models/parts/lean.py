"""The parts of a decode step on a CPU in as few operations as they take: each costs more than what it computes.

Each function binds a module's weights once and returns the bare computation on x (B, width); the weights are views,
but a norm's gain is not: it is that of the moment. What adds to a residual does so in place.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recallfront.models.parts.layers import MLP, Linear, RMSNorm, rotary_table
from recallfront.models.parts.state import LayerState, Step

Map = Callable[[Tensor], Tensor]
Add = Callable[[Tensor, Tensor], None]  # into the first
MixerStep = Callable[[Tensor, Tensor, LayerState, Step], None]  # residual, its norm, state, step


def runs_lean(tensor: Tensor) -> bool:
    """Whether a step is worth taking this way: on a CPU, where nothing is rounded."""
    exact = tensor.dtype in (torch.float32, torch.float64)
    return tensor.device.type == "cpu" and exact and not torch.compiler.is_compiling()


def lean_norm(norm: nn.Module) -> Map:
    """x / sqrt(|x|^2 + width eps) * sqrt(width) gain, where it is a root-mean-square norm."""
    if type(norm) is not RMSNorm:
        return norm
    width = norm.scale.shape[0]
    gain = (1 + norm.scale.detach()) * width**0.5
    floor = gain.new_full((1, 1), (width * norm.eps) ** 0.5)
    length, hypot = torch.linalg.vector_norm, torch.hypot

    def run(x: Tensor) -> Tensor:
        return (x / hypot(length(x, dim=1, keepdim=True), floor)).mul_(gain)

    return run


def lean_map(linear: nn.Module) -> Map:
    """W x + b."""
    if type(linear) is not Linear:  # an adapter may stand in its place
        return linear
    weight, addmm = linear.weight.detach().t(), torch.addmm
    if linear.bias is None:
        return lambda x: x.mm(weight)
    bias = linear.bias.detach()
    return lambda x: addmm(bias, x, weight)


def lean_add(linear: nn.Module) -> Add:
    """residual += W x + b."""
    if type(linear) is not Linear:

        def add(residual: Tensor, x: Tensor) -> None:
            residual.add_(linear(x))

        return add
    weight, bias = linear.weight.detach().t(), None if linear.bias is None else linear.bias.detach()

    def run(residual: Tensor, x: Tensor) -> None:
        residual.addmm_(x, weight)
        if bias is not None:
            residual.add_(bias)

    return run


def lean_mlp(mlp: MLP) -> Add:
    """residual += mlp(x)."""
    up, down, kind = lean_map(mlp.up), lean_add(mlp.down), mlp.kind
    gelu, silu = F.gelu, F.silu

    def run(residual: Tensor, x: Tensor) -> None:
        if kind == "gelu":
            down(residual, gelu(up(x), approximate="tanh"))
            return
        gate, product = up(x).chunk(2, 1)
        opened = silu(gate) if kind == "swiglu" else gelu(gate, approximate="tanh")
        down(residual, opened.mul_(product))

    return run


def lean_rotation(dim: int, theta: float) -> Callable[[Tensor, Step], None] | None:
    """Rotary positions on x (B, H, D) in place, all rows at the same position; None if nothing is turned."""
    if not dim:
        return None

    def run(x: Tensor, step: Step) -> None:
        def rows() -> tuple[Tensor, Tensor]:
            cos, sin = rotary_table(step.longest + 1, dim, theta, x.dtype, x.device)
            return cos[step.longest], sin[step.longest]

        cos, sin = step.once(("rotary", dim, theta), rows)
        turned = x[..., :dim]
        other = turned.roll(dim // 2, -1)
        turned.mul_(cos).addcmul_(other, sin)

    return run
