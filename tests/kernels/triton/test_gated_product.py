import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.gated_product import triton as kernels
from recallfront.kernels.gated_product.operator import Nonlinearity, gated_halves, gated_product
from tests.kernels.triton.accuracy import Run, check_operator, compare_with_reference
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("product", "grad gate", "grad x")
both_kinds = pytest.mark.parametrize("kind", ["silu", "gelu"])


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    gate, x = 3 * torch.randn(2, *shape, generator=generator)
    return gate.to(dtype), x.to(dtype)


def product(kind: Nonlinearity, backend: Backend) -> Run:
    return lambda gate, x: (gated_product(gate, x, kind, backend=backend),)


def halves(kind: Nonlinearity, backend: Backend) -> Run:
    return lambda packed: (gated_halves(packed, kind, backend=backend),)


@both_kinds
@pytest.mark.parametrize("shape", [(17, 1), (3, 63), (2, 5, 64), (7, 65), (2, 1100), (40, 33)])
def test_values_and_gradients(shape: tuple[int, ...], kind: Nonlinearity, device: torch.device) -> None:
    found, right = product(kind, "triton"), product(kind, "reference")
    compare_with_reference(found, right, draw(*shape), device=device, names=NAMES)
    packed = torch.cat(draw(*shape), dim=-1)
    compare_with_reference(halves(kind, "triton"), halves(kind, "reference"), [packed], device=device)


@both_kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types(dtype: torch.dtype, kind: Nonlinearity, device: torch.device) -> None:
    found, right = product(kind, "triton"), product(kind, "reference")
    compare_with_reference(found, right, draw(9, 100, dtype=dtype), device=device, names=NAMES)


@both_kinds
def test_the_forms_agree(kind: Nonlinearity) -> None:
    gate, x = draw(4, 9, dtype=torch.float64)
    expected = gated_product(gate, x, kind, backend="reference")
    torch.testing.assert_close(gated_product(gate, x, kind), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gated_halves(torch.cat([gate, x], dim=-1), kind), expected, rtol=1e-12, atol=1e-12
    )


def test_inputs_need_not_lie_together(device: torch.device) -> None:
    gate, x = draw(6, 40)
    loose = gate.repeat(1, 2)[:, :40], x.T.contiguous().T
    compare_with_reference(
        product("silu", "triton"), product("silu", "reference"), loose, device=device, names=NAMES
    )


def test_nothing_to_do(device: torch.device) -> None:
    empty = torch.ones(0, 6, device=device)
    assert gated_product(empty, empty, "silu", backend="triton").shape == (0, 6)
    assert gated_halves(empty, "silu", backend="triton").shape == (0, 3)


def test_extremes_stay_finite(device: torch.device) -> None:
    gate = torch.tensor([[-1e4, -90.0, 0.0, 90.0, 1e4]], device=device)
    for dtype in (torch.float32, torch.bfloat16):
        kinds: tuple[Nonlinearity, ...] = ("silu", "gelu")
        for kind in kinds:
            found = gated_product(gate.to(dtype), torch.ones_like(gate, dtype=dtype), kind, backend="triton")
            torch.testing.assert_close(found.float(), gate.clamp(min=0).to(dtype).float())


def test_registered(device: torch.device) -> None:
    gate, x = (tensor.to(device).requires_grad_() for tensor in draw(2, 5))
    check_operator(kernels.multiply, gate, x, "gelu")
    check_operator(kernels.multiply_halves, torch.cat([gate, x], dim=-1).detach().requires_grad_(), "silu")


@only_interpreted
def test_bytes() -> None:
    gate, x = draw(16, 2048, dtype=torch.bfloat16)
    with traffic() as moved:
        kernels.multiply(gate, x, "gelu")
    assert moved.total == 3 * x.nbytes
    with traffic() as moved:
        kernels.multiply_backward(gate, x, x, "gelu")
    assert moved.total == 5 * x.nbytes


@only_interpreted
def test_more_than_2_to_the_31_elements() -> None:
    gate, x = draw(1, 1024, dtype=torch.bfloat16)
    rows = 2**21 + 1
    with unpoisoned(), only_programs((rows - 1, 0, 0)):
        wide = gate.expand(rows, 1024), x.expand(rows, 1024)
        found = kernels.multiply(*wide, "silu")
        grad_gate, grad_x = kernels.multiply_backward(*wide, wide[1], "silu")
    assert torch.equal(found[-1:], kernels.multiply(gate, x, "silu"))
    expected = kernels.multiply_backward(gate, x, x, "silu")
    assert torch.equal(grad_gate[-1:], expected[0]) and torch.equal(grad_x[-1:], expected[1])


@pytest.mark.parametrize(
    ("gate", "kind", "message"),
    [
        (torch.ones(2, 3), "silu", "gate has shape"),
        (torch.ones(2, 4).double(), "silu", "one floating type"),
        (torch.ones(2, 4), "relu", "kind is 'relu'"),
    ],
)
def test_bad_arguments(gate: Tensor, kind: Nonlinearity, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated_product(gate, torch.ones(2, 4), kind)
    with pytest.raises(ValueError, match="must be even"):
        gated_halves(torch.ones(3), "silu")
