"""Public form of the product with a gate.

The kernels are imported where they are first used, since not every machine has Triton.
"""

from typing import Literal

from torch import Tensor

from recallfront.kernels.common.backend import Backend, choose
from recallfront.kernels.common.checks import check_same_dtype, check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.gated_product.coverage import obstacle
from recallfront.kernels.gated_product.pytorch import gated_product_pytorch
from recallfront.kernels.gated_product.reference import gated_product_reference

Nonlinearity = Literal["gelu", "silu"]


@outside_autocast
def gated_product(gate: Tensor, x: Tensor, kind: Nonlinearity, *, backend: Backend = "auto") -> Tensor:
    """f(gate) * x, both (..., D) of one type; f is silu or the tanh form of gelu.

    Raises ValueError if shapes or types do not fit together.
    """
    check_shape("gated_product", "gate", gate, tuple(x.shape))
    check_same_dtype("gated_product", gate=gate, x=x)
    _check_kind(kind)
    form = choose("gated_product", backend, gate, x, obstacle=lambda: obstacle(x))
    if form == "triton":
        from recallfront.kernels.gated_product.triton import multiply

        out: Tensor = multiply(gate, x, kind)
        return out
    run = gated_product_reference if form == "reference" else gated_product_pytorch
    return run(gate, x, kind)


@outside_autocast
def gated_halves(packed: Tensor, kind: Nonlinearity, *, backend: Backend = "auto") -> Tensor:
    """`gated_product` of the two halves of packed (..., 2 D), the gate first; its gradient is one tensor too."""
    if packed.ndim == 0 or packed.shape[-1] % 2:
        raise ValueError(f"gated_halves: packed has shape {tuple(packed.shape)}; the last size must be even")
    check_same_dtype("gated_halves", packed=packed)
    _check_kind(kind)
    form = choose("gated_halves", backend, packed, obstacle=lambda: obstacle(packed))
    if form == "triton":
        from recallfront.kernels.gated_product.triton import multiply_halves

        out: Tensor = multiply_halves(packed, kind)
        return out
    gate, x = packed.chunk(2, dim=-1)
    run = gated_product_reference if form == "reference" else gated_product_pytorch
    return run(gate, x, kind)


def _check_kind(kind: str) -> None:
    if kind not in ("gelu", "silu"):
        raise ValueError(f"gated_product: kind is {kind!r}; it may be 'gelu' or 'silu'")
