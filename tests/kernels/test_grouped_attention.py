import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.grouped_attention.operator import (
    grouped_attention,
    grouped_attention_step,
    grouped_attention_tree,
)
from tests.kernels.golden import GRADIENTS, VALUES, difference, load_golden


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_golden(backend: Backend) -> None:
    golden = load_golden("grouped_attention")
    inputs = [golden[name].requires_grad_() for name in ("q", "k", "v", "alpha", "conv_taps")]
    q, k, v = (tensor.transpose(1, 2) for tensor in inputs[:3])
    group_size = int(golden["group_size"])
    alpha, taps = inputs[3:]
    out = grouped_attention(
        q, k, v, group_size=group_size, conv_taps=taps, cross_scale=alpha, backend=backend
    )
    assert difference(out.transpose(1, 2), golden["out"]) < VALUES
    torch.autograd.backward(out, golden["grad_out"].transpose(1, 2))
    for tensor, name in zip(inputs, ("q", "k", "v", "alpha", "conv_taps"), strict=True):
        assert difference(tensor.grad, golden[f"grad_{name}"]) < GRADIENTS
    local = grouped_attention(q, k, v, group_size=group_size, cross_scale=0.0, backend=backend)
    assert difference(local.transpose(1, 2), golden["local"]) < VALUES


def draw(time: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, time, 2, 4, dtype=torch.float64).unbind(0)
    return q, k, v


@pytest.mark.parametrize("group_size", [1, 4, 7, 64])
@pytest.mark.parametrize("time", [1, 3, 4, 5, 11, 40])
@pytest.mark.parametrize("num_taps", [0, 1, 5, 45])
def test_whole_and_steps_equal_the_definition(group_size: int, time: int, num_taps: int) -> None:
    q, k, v = draw(time)
    taps = torch.randn(2, num_taps, dtype=torch.float64) if num_taps else None
    expected = grouped_attention(
        q, k, v, group_size=group_size, conv_taps=taps, cross_scale=0.7, backend="reference"
    )
    found = grouped_attention(q, k, v, group_size=group_size, conv_taps=taps, cross_scale=0.7)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)

    sums = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    keys, values = torch.zeros(2, 2, 2, group_size, 4, dtype=torch.float64).unbind(0)
    tail = torch.zeros(2, 2, num_taps, 4, dtype=torch.float64) if num_taps else None
    for position in range(time):
        o = grouped_attention_step(
            q[:, position],
            k[:, position],
            v[:, position],
            sums,
            keys,
            values,
            torch.tensor([position, position]),
            cross_scale=0.7,
            tail=tail,
            conv_taps=taps,
        )
        torch.testing.assert_close(o, expected[:, position], atol=1e-12, rtol=1e-12)


def test_one_group_has_no_cross_part() -> None:
    q, k, v = draw(6)
    first = grouped_attention(q, k, v, group_size=6, cross_scale=0.0)
    torch.testing.assert_close(grouped_attention(q, k, v, group_size=6, cross_scale=9.0), first)


def test_gradients() -> None:
    q, k, v = (tensor[:1, :, :1].contiguous().requires_grad_() for tensor in draw(9))
    taps = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def run(q: Tensor, k: Tensor, v: Tensor, taps: Tensor, scale: Tensor) -> Tensor:
        return grouped_attention(q, k, v, group_size=4, conv_taps=taps, cross_scale=scale)

    assert torch.autograd.gradcheck(run, (q, k, v, taps, scale), fast_mode=True)


def test_bad_arguments() -> None:
    q, k, v = draw(4)
    with pytest.raises(ValueError, match="group_size is 0"):
        grouped_attention(q, k, v, group_size=0)
    with pytest.raises(ValueError, match="conv_taps has shape"):
        grouped_attention(q, k, v, group_size=2, conv_taps=torch.ones(3, 2))
    with pytest.raises(ValueError, match="need a GPU"):
        grouped_attention(q, k, v, group_size=2, backend="triton")


def draw_state(group_size: int = 3, num_taps: int = 4) -> list[Tensor]:
    """sums, keys, values and tail of two rows and two heads, as no text leaves them."""
    slots = (4, group_size, group_size, num_taps)
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 2, size, 4, dtype=torch.float64, generator=generator) for size in slots]


def test_a_step_and_its_definition() -> None:
    """Rows at different positions."""
    q, k, v = draw(6)
    taps, lengths = torch.randn(2, 4, dtype=torch.float64), torch.tensor([7, 11])
    found, expected = draw_state(), draw_state()
    backends: list[Backend] = ["auto", "reference"]
    for time in range(6):
        results = [
            grouped_attention_step(
                q[:, time],
                k[:, time],
                v[:, time],
                sums,
                keys,
                values,
                lengths + time,
                cross_scale=0.7,
                tail=tail,
                conv_taps=taps,
                backend=backend,
            )
            for backend, (sums, keys, values, tail) in zip(backends, (found, expected), strict=True)
        ]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(found, expected)


def test_a_tree_is_the_steps_along_its_paths() -> None:
    q, k, v = draw(4)
    seen = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]).bool()
    lengths = torch.tensor([7, 11])
    taps, positions = torch.randn(2, 4, dtype=torch.float64), lengths[:, None] + torch.tensor([0, 1, 1, 2])
    sums, keys, values, tail = draw_state()
    out = grouped_attention_tree(
        q, k, v, sums, keys, values, lengths, positions, seen, cross_scale=0.7, tail=tail, conv_taps=taps
    )
    for node, path in enumerate(([0], [0, 1], [0, 2], [0, 1, 3])):
        sums, keys, values, tail = draw_state()
        for depth, at in enumerate(path):
            last = grouped_attention_step(
                q[:, at],
                k[:, at],
                v[:, at],
                sums,
                keys,
                values,
                lengths + depth,
                cross_scale=0.7,
                tail=tail,
                conv_taps=taps,
            )
        torch.testing.assert_close(out[:, node], last)


def test_bad_states() -> None:
    q, k, v = draw(4)
    sums, keys, values, tail = draw_state()
    lengths = torch.tensor([7, 11])
    positions, seen = lengths[:, None] + torch.arange(4), torch.ones(4, 4).tril().bool()
    with pytest.raises(ValueError, match="tail and conv_taps go together"):
        grouped_attention_step(q[:, 0], k[:, 0], v[:, 0], sums, keys, values, lengths, tail=tail)
    with pytest.raises(ValueError, match="values has shape"):
        grouped_attention_step(q[:, 0], k[:, 0], v[:, 0], sums, keys, tail, lengths)
    with pytest.raises(ValueError, match=r"seen is torch\.float32; it must be torch\.bool"):
        grouped_attention_tree(q, k, v, sums, keys, values, lengths, positions, seen.float())
    with pytest.raises(ValueError, match="positions has shape"):
        grouped_attention_tree(q, k, v, sums, keys, values, lengths, positions[:, 1:], seen)


@pytest.mark.parametrize(
    ("time", "group", "taps"), [(130, 32, 33), (65, 32, 6), (200, 64, 1), (97, 40, None)]
)
def test_groups_one_after_the_other_equal_the_definition(time: int, group: int, taps: int | None) -> None:
    """Large groups on a CPU, values and every gradient."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

    inputs = [drawn(2, time, 3, 4) for _ in range(3)]
    filters, scale = None if taps is None else drawn(3, taps), drawn(1)
    leaves = [*inputs, scale] if filters is None else [*inputs, scale, filters]
    slope = torch.randn(2, time, 3, 4, dtype=torch.float64, generator=generator)
    results = []
    backends: list[Backend] = ["auto", "reference"]
    for backend in backends:
        q, k, v = inputs
        out = grouped_attention(
            q, k, v, group_size=group, conv_taps=filters, cross_scale=scale, backend=backend
        )
        results.append([out, *torch.autograd.grad(out, leaves, slope)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
