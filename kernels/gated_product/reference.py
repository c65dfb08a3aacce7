"""Definition of the product with a gate."""

import math

import torch
from torch import Tensor


def gated_product_reference(gate: Tensor, x: Tensor, kind: str) -> Tensor:
    """f(gate) * x, in float32 at least; f(g) is g sigmoid(g), or the tanh form of gelu (arXiv:1606.08415 sec. 2)."""
    g = gate.to(torch.promote_types(gate.dtype, torch.float32))
    if kind == "silu":
        opened = g * torch.sigmoid(g)
    else:
        opened = 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
    return (opened * x).to(x.dtype)
