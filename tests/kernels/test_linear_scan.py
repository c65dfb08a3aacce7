import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.linear_scan.operator import linear_scan, linear_scan_step
from recallfront.kernels.rg_lru.operator import rg_lru
from tests.kernels.golden import GRADIENTS, VALUES, difference, load_golden


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_golden(backend: Backend) -> None:
    golden = load_golden("linear_scan")
    a, b, h0 = (golden[name].requires_grad_() for name in ("a", "b", "h0"))
    h, last = linear_scan(a, b, initial_state=h0, reset=golden["reset"], backend=backend)
    assert difference(h, golden["out"]) < VALUES
    assert difference(last, golden["last"]) < VALUES
    torch.autograd.backward(h, golden["grad_out"])
    for tensor, name in ((a, "grad_a"), (b, "grad_b"), (h0, "grad_h0")):
        assert difference(tensor.grad, golden[name]) < GRADIENTS


def draw(batch: int, time: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    a = torch.rand(batch, time, width, dtype=torch.float64)
    b = torch.randn(batch, time, width, dtype=torch.float64)
    return a, b, torch.randn(batch, width, dtype=torch.float64), torch.rand(batch, time) < 0.1


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 7, 3), (1, 128, 4), (2, 131, 3), (1, 200, 2), (64, 130, 32)]
)
def test_equals_its_definition(shape: tuple[int, int, int]) -> None:
    a, b, initial, reset = draw(*shape)
    expected, last = linear_scan(a, b, initial_state=initial, reset=reset, backend="reference")
    found, found_last = linear_scan(a, b, initial_state=initial, reset=reset)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found_last, last, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("time", [5, 131])
def test_gradients(time: int) -> None:
    a, b, initial, reset = draw(2, time, 2)
    inputs = [tensor.requires_grad_() for tensor in (a, b, initial)]

    def run(a: Tensor, b: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
        return linear_scan(a, b, initial_state=initial, reset=reset)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_a_reset_starts_afresh() -> None:
    a, b, initial, _ = draw(2, 9, 3)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[:, 4] = True
    h, _ = linear_scan(a, b, initial_state=initial, reset=reset)
    alone, _ = linear_scan(a[:, 4:], b[:, 4:])
    torch.testing.assert_close(h[:, 4:], alone, atol=0, rtol=0)


def test_steps_equal_the_scan() -> None:
    a, b, state, _ = draw(2, 9, 3)
    expected, last = linear_scan(a, b, initial_state=state)
    for time in range(9):
        h, state = linear_scan_step(a[:, time], b[:, time], state)
        torch.testing.assert_close(h, expected[:, time], atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(state, last, atol=1e-14, rtol=1e-14)


def test_tiny_decays_stay_finite() -> None:
    a = torch.full((1, 300, 2), 1e-30, requires_grad=True)
    b = torch.ones(1, 300, 2, requires_grad=True)
    h, _ = linear_scan(a, b)
    torch.autograd.backward(h.sum())
    assert a.grad is not None
    assert h.isfinite().all() and a.grad.isfinite().all()


def test_bfloat16_is_summed_in_float32() -> None:
    a, b = torch.ones(1, 1000, 1, dtype=torch.bfloat16), torch.ones(1, 1000, 1, dtype=torch.bfloat16)
    h, last = linear_scan(a, b)
    assert h.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    assert float(last) == 1000.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(2, 4, 3)}, "a has shape"),
        ({"initial_state": torch.ones(2, 4)}, "initial_state has shape"),
        ({"reset": torch.zeros(2, 5)}, "reset is torch.float32"),
        ({"a": torch.ones(2, 5, 3, dtype=torch.float64)}, "one floating type"),
        ({"backend": "triton"}, "need a GPU"),
        ({"backend": "fast"}, "it may be"),
    ],
)
def test_bad_arguments(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"a": torch.ones(2, 5, 3), "b": torch.ones(2, 5, 3)} | change
    with pytest.raises(ValueError, match=message):
        linear_scan(**arguments)  # type: ignore[arg-type]


def test_what_overflows_in_one_row_reaches_no_other_rows_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(2, 5, 4, generator=generator)
    v[0, -1] = torch.inf
    weight, bias = torch.randn(2, 2, 4, generator=generator), torch.randn(2, 4, generator=generator)
    h, _ = rg_lru(v.requires_grad_(), weight, bias, torch.randn(4, generator=generator))
    (grad,) = torch.autograd.grad(h[1].sum(), v)
    assert grad[1].isfinite().all()
