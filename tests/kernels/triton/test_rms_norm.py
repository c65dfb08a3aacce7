import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.rms_norm import triton as kernels
from recallfront.kernels.rms_norm.operator import rms_norm
from tests.kernels.triton.accuracy import Run, check_operator, compare_with_reference, gradients
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("y", "grad x", "grad gain")


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x = 2 * torch.randn(*shape, generator=generator)
    return x.to(dtype), (1 + 0.1 * torch.randn(shape[-1], generator=generator)).to(dtype)


def norm(backend: Backend, eps: float = 1e-6) -> Run:
    return lambda x, gain: (rms_norm(x, gain, eps=eps, backend=backend),)


@pytest.mark.parametrize("shape", [(1, 16), (3, 63), (2, 5, 64), (130, 65), (2, 1000), (33, 17), (3, 5000)])
def test_values_and_gradients(shape: tuple[int, ...], device: torch.device) -> None:
    compare_with_reference(norm("triton"), norm("reference"), draw(*shape), device=device, names=NAMES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types(dtype: torch.dtype, device: torch.device) -> None:
    given = draw(9, 100, dtype=dtype)
    compare_with_reference(norm("triton"), norm("reference"), given, device=device, names=NAMES)


def test_eps_and_small_rows(device: torch.device) -> None:
    x, gain = draw(40, 50)
    run, right = norm("triton", eps=0.1), norm("reference", eps=0.1)
    compare_with_reference(run, right, (x / 100, gain), device=device, names=NAMES)
    assert not norm("triton")(torch.zeros(2, 8, device=device), torch.ones(8, device=device))[0].any()


def test_the_forms_agree() -> None:
    given, weights = draw(4, 9, dtype=torch.float64), [torch.ones(4, 9, dtype=torch.float64)]
    expected = gradients(norm("reference"), given, weights)
    for found, right in zip(gradients(norm("auto"), given, weights), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(norm("auto")(*given)[0], expected[0], rtol=1e-12, atol=1e-12)


def test_inputs_need_not_lie_together(device: torch.device) -> None:
    x, gain = draw(6, 40)
    for loose in (x.repeat(1, 2)[:, :40], x.T.contiguous().T):
        compare_with_reference(norm("triton"), norm("reference"), (loose, gain), device=device, names=NAMES)


def test_nothing_to_do(device: torch.device) -> None:
    assert norm("triton")(torch.ones(0, 6, device=device), torch.ones(6, device=device))[0].shape == (0, 6)


def test_registered(device: torch.device) -> None:
    x, gain = (tensor.to(device).requires_grad_() for tensor in draw(3, 5))
    check_operator(kernels.normalise, x, gain, 1e-6)


@only_interpreted
def test_bytes() -> None:
    x, gain = draw(2048, 1024, dtype=torch.bfloat16)
    with traffic() as moved:
        y, inverse = kernels.normalise(x, gain, 1e-6)
    assert moved.total <= 1.15 * (x.nbytes + gain.nbytes + y.nbytes + inverse.nbytes)
    with traffic() as moved:
        grads = kernels.backward(x, gain, inverse, y)
    assert moved.total <= 1.15 * sum(tensor.nbytes for tensor in (x, gain, inverse, y, *grads))


@only_interpreted
def test_more_than_2_to_the_31_elements() -> None:
    x, gain = draw(4, 1024, dtype=torch.bfloat16)
    rows = 2**21 + 4
    with unpoisoned(), only_programs((rows // 4 - 1, 0, 0)):
        many = torch.empty(rows, 1024, dtype=torch.bfloat16)
        many[-4:] = x
        found, inverse = kernels.normalise(many, gain, 1e-6)
    expected, small = kernels.normalise(x, gain, 1e-6)
    assert torch.equal(found[-4:], expected) and torch.equal(inverse[-4:], small)
    with unpoisoned(), only_programs(((rows - 1) // 32, 0, 0)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "sum", lambda x, dim: x[-1])  # over 2^16 parts, all but one never written
        grad_x, _ = kernels.backward(many, gain, inverse, found)
    assert torch.equal(grad_x[-4:], kernels.backward(x, gain, small, expected)[0])


def test_bad_arguments(device: torch.device) -> None:
    with pytest.raises(ValueError, match="gain has shape"):
        rms_norm(torch.ones(2, 3), torch.ones(4))
    with pytest.raises(ValueError, match="at least 1"):
        rms_norm(torch.ones(2, 0), torch.ones(0))
    wide = torch.ones(1, 20000, device=device)
    with pytest.raises(ValueError, match="20000 channels; the kernel has at most 8192"):
        rms_norm(wide, wide[0], backend="triton")
    assert torch.allclose(rms_norm(wide, wide[0]), wide)
