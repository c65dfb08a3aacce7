import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.short_conv.operator import short_conv, short_conv_step


def draw(time: int, size: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, state = torch.randn(2, time, 3, dtype=torch.float64), torch.randn(2, size - 1, 3, dtype=torch.float64)
    return x, torch.randn(3, size, dtype=torch.float64), torch.randn(3, dtype=torch.float64), state


@pytest.mark.parametrize("time", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_equals_its_definition_and_the_library(time: int, size: int) -> None:
    x, taps, bias, state = draw(time, size)
    found, last = short_conv(x, taps, bias=bias, initial_state=state)
    expected, _ = short_conv(x, taps, bias=bias, initial_state=state, backend="reference")
    history = torch.cat([state, x], dim=1)
    library = F.conv1d(history.transpose(1, 2), taps[:, None], bias, groups=3).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found, library, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(last, history[:, time:], atol=0, rtol=0)


def test_the_last_tap_is_the_newest_token() -> None:
    x = torch.arange(1.0, 5.0).view(1, 4, 1)
    assert short_conv(x, torch.tensor([[10.0, 1.0]]))[0].flatten().tolist() == [1, 12, 23, 34]


def test_no_tap_reaches_past_a_document_start() -> None:
    x, taps, bias, _ = draw(9)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]).expand(2, 9)
    packed, _ = short_conv(x, taps, bias=bias, positions=positions)
    expected, _ = short_conv(x, taps, bias=bias, positions=positions, backend="reference")
    alone, _ = short_conv(x[:, 4:], taps, bias=bias)
    torch.testing.assert_close(packed, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(packed[:, 4:], alone, atol=1e-12, rtol=1e-12)


def test_packed_gradients_and_what_they_keep() -> None:
    """No copy of a token's history a tap: two passes a tap are kept, the input and where it counts."""
    inputs = [tensor.requires_grad_() for tensor in draw(9)]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [3, 4, 5, 6, 7, 0, 1, 0, 0]])
    kept: list[torch.Size] = []

    def run(backend: Backend) -> list[Tensor]:
        x, taps, bias, state = inputs
        y, _ = short_conv(x, taps, bias=bias, initial_state=state, positions=positions, backend=backend)
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    def pack(x: Tensor) -> Tensor:
        kept.append(x.shape)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        found = run("auto")
    assert max(shape.numel() for shape in kept) <= inputs[0].numel()
    for mine, right in zip(found, run("reference"), strict=True):
        torch.testing.assert_close(mine, right, atol=1e-12, rtol=1e-12)


def test_steps_equal_the_whole() -> None:
    x, taps, bias, state = draw(7)
    expected, _ = short_conv(x, taps, bias=bias, initial_state=state)
    for time in range(7):
        y, state = short_conv_step(x[:, time], taps, state, bias=bias)
        torch.testing.assert_close(y, expected[:, time], atol=1e-12, rtol=1e-12)


def test_gradients() -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(5)]

    def run(x: Tensor, taps: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return short_conv(x, taps, bias=bias, initial_state=state)

    assert torch.autograd.gradcheck(run, inputs)


def test_bad_arguments() -> None:
    x, taps, bias, state = draw(5)
    with pytest.raises(ValueError, match="taps has shape"):
        short_conv(x, taps[:2])
    with pytest.raises(ValueError, match="initial_state has shape"):
        short_conv(x, taps, initial_state=state[:, :1])
    with pytest.raises(ValueError, match="0 tokens"):
        short_conv(x[:, :0], taps)
    with pytest.raises(ValueError, match="need a GPU"):
        short_conv(x, taps, backend="triton")


@pytest.mark.parametrize("time", [31, 32, 33, 100])
def test_rounds_no_more_than_its_sums_may(time: int) -> None:
    """In float32, where another kernel convolves: a sum of n products is within n eps of the sum of their sizes."""
    given = tuple(x.float().requires_grad_() for x in draw(time))
    exact = tuple(x.detach().double().requires_grad_() for x in given)
    sizes = tuple(x.detach().abs().double().requires_grad_() for x in given)

    def results(given: tuple[Tensor, ...], slope: Tensor) -> tuple[Tensor, ...]:
        x, taps, bias, state = given
        y, _ = short_conv(x, taps, bias=bias, initial_state=state)
        return y.detach(), *torch.autograd.grad(y, (x, taps, bias, state), slope)

    slope = torch.randn(2, time, 3)
    found = results(given, slope)
    expected, bounds = results(exact, slope.double()), results(sizes, slope.abs().double())
    for ours, right, size in zip(found, expected, bounds, strict=True):
        terms = 2 * time + 5  # of the longest sum, a tap's gradient over both rows
        assert bool(((ours - right).abs() <= terms * torch.finfo(torch.float32).eps * size).all())
