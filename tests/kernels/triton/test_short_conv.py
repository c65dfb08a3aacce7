import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.short_conv import triton as kernels
from recallfront.kernels.short_conv.operator import Activation, short_conv, short_conv_step
from tests.kernels.triton.accuracy import Run, check_operator, compare_with_reference
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("y", "last", "grad x", "grad taps", "grad bias", "grad initial", "")


def draw(
    batch: int, time: int, channels: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, ...]:
    """x, taps, bias, initial_state, positions (documents of 5 tokens on average)."""
    generator = torch.Generator().manual_seed(batch + 10 * time + 100 * channels + 1000 * size + seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    starts = torch.rand(batch, time, generator=generator) < 0.2
    starts[:, 0] = True
    index = torch.arange(time).expand(batch, time)
    positions = index - torch.where(starts, index, 0).cummax(1).values
    return (
        normal(batch, time, channels),
        normal(channels, size),
        normal(channels),
        normal(batch, size - 1, channels),
        positions,
    )


def form(backend: Backend, silu: bool) -> Run:
    def run(x: Tensor, taps: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
        bias, initial, positions = others
        activation: Activation = "silu" if silu else None
        return short_conv(
            x,
            taps,
            bias=bias,
            initial_state=initial,
            positions=positions,
            activation=activation,
            backend=backend,
        )

    return run


@pytest.mark.parametrize("silu", [False, True], ids=["plain", "silu"])
@pytest.mark.parametrize(
    ("time", "channels", "size"),
    [
        (1, 3, 4),
        (2, 33, 4),
        (63, 5, 3),
        (64, 32, 1),
        (65, 31, 4),
        (100, 9, 2),
        (7, 300, 4),
        (9, 7, 8),
        (130, 9, 8),
    ],
)
def test_values_and_gradients(time: int, channels: int, size: int, silu: bool, device: torch.device) -> None:
    given, *more = (
        (*draw(2, time, channels, size, seed=seed)[:-1], None) for seed in range(1 + 15 // channels)
    )
    compare_with_reference(
        form("triton", silu), form("reference", silu), given, device=device, names=NAMES, more=more
    )


@pytest.mark.parametrize("silu", [False, True], ids=["plain", "silu"])
@pytest.mark.parametrize(
    "given", [(), ("bias",), ("initial",), ("positions",), ("bias", "initial", "positions")]
)
def test_flags(given: tuple[str, ...], silu: bool, device: torch.device) -> None:
    x, taps, *others = draw(2, 70, 9, 4)
    optional = [
        tensor if name in given else None
        for name, tensor in zip(("bias", "initial", "positions"), others, strict=True)
    ]
    compare_with_reference(
        form("triton", silu), form("reference", silu), (x, taps, *optional), device=device, names=NAMES
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types(dtype: torch.dtype, device: torch.device) -> None:
    *given, _ = draw(2, 130, 33, 4, dtype)
    compare_with_reference(
        form("triton", True), form("reference", True), (*given, None), device=device, names=NAMES
    )


def test_inputs_need_not_lie_together(device: torch.device) -> None:
    x, taps, bias, initial, _ = draw(2, 70, 20, 4)
    loose = (
        x.repeat(1, 1, 2)[..., :20],
        taps.T.contiguous().T,
        bias,
        initial.transpose(1, 2).contiguous().mT,
    )
    assert not loose[0].is_contiguous() and not loose[1].is_contiguous()
    compare_with_reference(
        form("triton", False), form("reference", False), (*loose, None), device=device, names=NAMES
    )


def test_the_activation_is_what_it_says() -> None:
    x, taps, bias, _, positions = draw(2, 9, 3, 4)
    plain, _ = short_conv(x, taps, bias=bias, positions=positions)
    backends: tuple[Backend, ...] = ("auto", "reference", "triton")
    for backend in backends:
        found, _ = form(backend, True)(x, taps, bias, None, positions)
        torch.testing.assert_close(found, F.silu(plain))


def test_nothing_to_do(device: torch.device) -> None:
    x, taps, *_ = (tensor.to(device) for tensor in draw(1, 5, 3, 4))
    y, last = short_conv(x[:0], taps, backend="triton")
    assert (y.shape, last.shape) == ((0, 5, 3), (0, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "silu"), [(4, False), (4, True), (2, False), (1, False)])
def test_steps(size: int, silu: bool, dtype: torch.dtype, device: torch.device) -> None:
    x, taps, bias, initial, _ = draw(11, 1, 100, size, dtype)
    activation: Activation = "silu" if silu else None

    def step(x: Tensor, taps: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return short_conv_step(x[:, 0], taps, state, bias=bias, activation=activation, backend="triton")

    def defined(x: Tensor, taps: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, last = form("reference", silu)(x, taps, bias, state, None)
        return y[:, 0], last

    given = (x, taps, bias, initial)
    compare_with_reference(step, defined, given, device=device, names=NAMES, backward=False)


def test_a_step_keeps_its_state_unless_told_otherwise(device: torch.device) -> None:
    x, taps, _, initial, _ = (tensor.to(device) for tensor in draw(3, 1, 7, 4))
    kept = initial.clone()
    _, new = short_conv_step(x[:, 0], taps, initial, backend="triton")
    assert torch.equal(initial, kept)
    _, same = short_conv_step(x[:, 0], taps, initial, in_place=True, backend="triton")
    assert same is initial and torch.equal(same, new)


def test_registered(device: torch.device) -> None:
    x, taps, bias, initial, positions = (tensor.to(device) for tensor in draw(1, 3, 5, 4))
    wanting = [tensor.requires_grad_() for tensor in (x, taps, bias, initial)]
    check_operator(kernels.convolve, *wanting, positions, True)
    check_operator(kernels.convolve, *wanting[:2], None, None, None, False)
    check_operator(kernels.step, *(tensor.detach() for tensor in (x[:, 0], taps, bias, initial)), True)


def test_a_step_of_more_rows_than_a_grid_is_high(device: torch.device) -> None:
    """65,535 programs at most in a grid's second direction, and as many times the rows of one."""
    batch = 65536 * kernels.STEP_ROWS + 1
    x, taps, _, initial, _ = (tensor.to(device) for tensor in draw(1, 1, 2, 2))
    expected, _ = short_conv_step(x[:, 0], taps, initial, backend="reference")
    state = initial.repeat(batch, 1, 1)
    with unpoisoned(), only_programs((65536, 0, 0)):
        y = kernels.step(x[:, 0].expand(batch, 2), taps, None, state, False)
    torch.testing.assert_close(y[-1], expected[0])
    torch.testing.assert_close(state[-1, 0], x[0, 0])


@only_interpreted
@pytest.mark.parametrize("silu", [False, True], ids=["plain", "silu"])
def test_bytes(silu: bool) -> None:
    x, taps, bias, *_ = draw(1, 2048, 64, 4, torch.bfloat16)
    with traffic() as moved:
        y, last = kernels.convolve(x, taps, bias, None, None, silu)
    assert moved.total <= 1.15 * sum(tensor.nbytes for tensor in (x, taps, bias, y, last))
    with traffic() as moved:
        grads = kernels.backward(x, taps, bias, None, None, silu, y, last)
    assert moved.total <= 1.15 * sum(tensor.nbytes for tensor in (x, taps, bias, y, last, *grads))


@only_interpreted
def test_bytes_of_a_step() -> None:
    x, taps, bias, initial, _ = draw(64, 1, 256, 4, torch.bfloat16)
    with traffic() as moved:
        y = kernels.step(x[:, 0], taps, bias, initial, True)
    assert moved.total <= 1.15 * (sum(tensor.nbytes for tensor in (x, taps, bias, y)) + 2 * initial.nbytes)


@only_interpreted
def test_more_than_2_to_the_31_elements() -> None:
    batch, time, channels = 2**20 + 1, 64, 32
    x, taps, bias, *_ = draw(1, time, channels, 4, torch.bfloat16)
    y, last = kernels.convolve(x, taps, bias, None, None, True)
    grad_x, *_ = kernels.backward(x, taps, bias, None, None, True, y, last)
    with unpoisoned(), only_programs((batch - 1, 0, 0)):
        wide = x.expand(batch, time, channels)
        many, ends = kernels.convolve(wide, taps, bias, None, None, True)
        assert torch.equal(many[-1], y[0]) and torch.equal(ends[-1], last[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "sum", lambda x, dim: x[-1])  # over 2^20 parts, all but one never written
            found, *_ = kernels.backward(
                wide, taps, bias, None, None, True, y.expand(wide.shape), last.expand(ends.shape)
            )
        assert torch.equal(found[-1], grad_x[0])


@pytest.mark.parametrize(
    ("size", "dtype", "message"),
    [(9, torch.float32, "9 taps; the kernel"), (4, torch.float64, "float64; the")],
)
def test_what_no_kernel_covers(size: int, dtype: torch.dtype, message: str, device: torch.device) -> None:
    x, taps, *_ = (tensor.to(device) for tensor in draw(1, 12, 3, size, dtype))
    with pytest.raises(ValueError, match=message):
        short_conv(x, taps, backend="triton")
    torch.testing.assert_close(short_conv(x, taps), short_conv(x, taps, backend="reference"))
