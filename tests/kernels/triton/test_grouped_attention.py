import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.grouped_attention import plan as cutting
from recallfront.kernels.grouped_attention import triton as kernels
from recallfront.kernels.grouped_attention.operator import (
    grouped_attention,
)
from tests.kernels.triton.accuracy import check_operator, compare_with_reference
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("o", "grad q", "grad k", "grad v", "grad scale", "grad taps")
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def drawn(*shape: int, dtype: torch.dtype = F32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def draw(
    time: int, width: int, taps: int | None, dtype: torch.dtype, batch: int = 1, heads: int = 2, seed: int = 0
) -> list[Tensor | None]:
    """q, k, v, the scale, the taps."""
    q, k, v = drawn(3, batch, time, heads, width, dtype=dtype, seed=seed).unbind(0)
    filters = None if taps is None else drawn(heads, taps, dtype=dtype, seed=seed + 100)
    return [q, k, v, torch.tensor([0.4], dtype=dtype), filters]


def attending(backend: Backend, group: int, scale: float | None = None) -> Callable[..., tuple[Tensor]]:
    """Grouped attention of q, k, v, the scale and the taps; `scale` is a number to take instead."""

    def run(q: Tensor, k: Tensor, v: Tensor, learned: Tensor | None, taps: Tensor | None) -> tuple[Tensor]:
        given = learned if scale is None else scale
        assert given is not None
        return (
            grouped_attention(q, k, v, group_size=group, conv_taps=taps, cross_scale=given, backend=backend),
        )

    return run


@pytest.mark.parametrize(
    ("time", "width", "group", "taps", "dtype"),
    [
        (1, 16, 64, None, F32),
        (5, 16, 2, 33, F32),
        (63, 16, 16, 33, F32),
        (64, 21, 5, 1, F32),
        (65, 33, 17, 32, F32),
        (100, 8, 40, None, F32),
        (2, 5, 1, 3, BF16),
        (40, 8, 1, 2, BF16),
        (63, 64, 64, 32, BF16),
        (65, 64, 64, 32, BF16),
        (129, 24, 16, 33, BF16),
        (200, 40, 63, None, BF16),
        (200, 16, 65, 20, BF16),
        (300, 64, 130, 33, BF16),
        (100, 64, 7, 2, F16),
        (65, 20, 64, 33, F16),
        (140, 16, 100, None, F16),
    ],
)
def test_forward_and_backward(
    time: int, width: int, group: int, taps: int | None, dtype: torch.dtype, device: torch.device
) -> None:
    """Handfuls of numbers, and the scale's gradient, a single one, are held to the rule over several draws."""
    draws = 10 if time < 6 else 4 if dtype == F32 else 1
    heads = 1 if 1 < draws < 5 else 2
    given, *more = (draw(time, width, taps, dtype, heads=heads, seed=seed) for seed in range(draws))
    run, reference = attending("triton", group), attending("reference", group)
    # A single token is s^2 v with s = q . k of unit vectors: two roundings for each vector and one for the product,
    # twice in the square, and two more, each half a unit, which nothing evens out if the reference's are luckier.
    ulps = math.sqrt(4 * 5 + 2) / 2 if time == 1 else 1.0
    compare_with_reference(run, reference, given, device=device, names=NAMES, more=more, ulps=ulps)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_number_as_scale(dtype: torch.dtype, device: torch.device) -> None:
    q, k, v, _, taps = draw(40, 16, 3, dtype)
    for number in (0.0, -1.5):
        run, reference = attending("triton", 12, number), attending("reference", 12, number)
        compare_with_reference(run, reference, [q, k, v, None, taps], device=device, names=NAMES)


@pytest.mark.parametrize("group", [20, 64, 150])
def test_another_number_of_stretches(
    group: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few heads, so that tokens are cut into stretches, and the blocks that other chips get."""
    monkeypatch.setattr(kernels, "has_wide_state", lambda device: False)
    run, reference = attending("triton", group), attending("reference", group)
    given = draw(520 if group < 64 else 330, 16, 33, BF16, heads=1)
    compare_with_reference(run, reference, given, device=device, names=NAMES)


def test_taps_finer_than_the_values(device: torch.device) -> None:
    q, k, v, _, _ = draw(140, 32, None, BF16)
    run, reference = attending("triton", 64, 0.4), attending("reference", 64, 0.4)
    compare_with_reference(run, reference, [q, k, v, None, drawn(2, 33, seed=5)], device=device, names=NAMES)


@pytest.mark.parametrize("width", [96, 128])
def test_wide_heads_forward(width: int, device: torch.device) -> None:
    given = draw(140, width, 33, BF16)
    run, reference = attending("triton", 64), attending("reference", 64)
    compare_with_reference(run, reference, given, device=device, backward=False)


def test_inputs_need_not_lie_together(device: torch.device) -> None:
    """Queries, keys and values as a projection leaves them side by side, and entries that are far apart."""
    heads, width, taps = 2, 12, drawn(2, 5)

    def split(backend: Backend) -> Callable[..., tuple[Tensor]]:
        def run(together: Tensor, scale: Tensor, taps: Tensor) -> tuple[Tensor]:
            q, k, v = together.unflatten(2, (3 * heads, width)).split(heads, dim=2)
            return attending(backend, 16)(q, k, v, scale, taps)

        return run

    given = [drawn(2, 40, 3 * heads * width), torch.tensor(0.3), taps]
    names = ("o", "gradient", "grad scale", "grad taps")
    compare_with_reference(split("triton"), split("reference"), given, device=device, names=names)
    near = [x.to(device) for x in drawn(3, 1, 40, heads, width).unbind(0)]
    far = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in near]
    assert far[0].stride(-1) != 1
    weights = torch.tensor(0.3, device=device), taps.to(device)
    run = attending("triton", 16)
    torch.testing.assert_close(run(*far, *weights)[0], run(*near, *weights)[0], rtol=0, atol=0)


def test_large_gradients_in_float16(device: torch.device) -> None:
    """Of a scaled loss: products with the values are beyond what float16 holds (65504), gradients within."""
    q, k, v, _, _ = draw(70, 64, None, F16)

    def scaled(backend: Backend) -> Callable[..., tuple[Tensor]]:
        def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
            return (attending(backend, 16, 0.4)(q, k, v, None, None)[0] * 512.0,)

        return run

    assert q is not None and k is not None and v is not None
    given = [64 * q, 64 * k, 8 * v]
    compare_with_reference(scaled("triton"), scaled("reference"), given, device=device, names=NAMES)


def test_a_row_of_zeros_stays_zero(device: torch.device) -> None:
    q, k, v = (x.to(device).requires_grad_() for x in drawn(3, 1, 20, 1, 8).unbind(0))
    with torch.no_grad():
        q[:, 3], k[:, 5] = 0.0, 0.0
    o = grouped_attention(q, k, v, group_size=6, backend="triton")
    o.sum().backward()
    expected = grouped_attention(q, k, v, group_size=6)
    torch.testing.assert_close(o, expected)
    for grad in (q.grad, k.grad, v.grad):
        assert grad is not None and grad.isfinite().all()


# ---- PyTorch's view ----


def test_registration(device: torch.device) -> None:
    q, k, v, scale, taps = (x if x is None else x.to(device) for x in draw(9, 4, 3, F32))
    leaves = [x if x is None else x.clone().requires_grad_() for x in (q, k, v, scale, taps)]
    check_operator(kernels.grouped_attention_op, *leaves, 0.0, 4)
    check_operator(kernels.grouped_attention_op, *leaves[:3], None, None, 0.5, 4)
    check_operator(kernels.grouped_attention_backward_op, v, q, k, v, scale, taps, 0.0, 4)


def test_compile_sees_one_operator(device: torch.device) -> None:
    seen: list[str] = []

    def look(module: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return module

    given = [x if x is None else x.to(device) for x in draw(9, 4, 3, F32)]
    run = attending("triton", 4)
    found = torch.compile(run, backend=look, fullgraph=True)(*given)
    assert torch.equal(found[0], run(*given)[0])
    assert "recallfront.grouped_attention.default" in seen


# ---- what no kernel covers ----


def test_uncovered(device: torch.device) -> None:
    q, k, v = (x.to(device) for x in drawn(3, 1, 4, 2, 72, dtype=BF16).unbind(0))
    grouped_attention(q, k, v, group_size=2, backend="triton")
    with pytest.raises(ValueError, match="head size is 72; the kernels of the gradient have 1 to 64"):
        grouped_attention(q.requires_grad_(), k, v, group_size=2, backend="triton")
    q = q.detach()
    with pytest.raises(ValueError, match=r"head size is 72; the kernels have 1 to 64 in torch\.float32"):
        grouped_attention(q.float(), k.float(), v.float(), group_size=2, backend="triton")
    with pytest.raises(ValueError, match=r"q is torch\.float64"):
        grouped_attention(q.double(), k.double(), v.double(), group_size=2, backend="triton")
    for count in (0, 34):
        with pytest.raises(ValueError, match=f"conv_taps has {count} taps a head; the kernels have 1 to 33"):
            taps = torch.zeros(2, count, device=device)
            grouped_attention(q, k, v, group_size=2, conv_taps=taps, backend="triton")
    with pytest.raises(ValueError, match="no size may be 0"):
        grouped_attention(q[:, :0], k[:, :0], v[:, :0], group_size=2, backend="triton")


# ---- bytes ----


def least(time: int, width: int, tensors: int) -> int:
    """Bytes of `tensors` like q of one head, in bfloat16."""
    return 2 * time * width * tensors


@only_interpreted
@pytest.mark.parametrize("width", [64, 128])
def test_bytes_forward(width: int) -> None:
    """At batch x heads = 128, groups of 64 and 32 taps; of one head, whose programs move as much as any other's."""
    lines, time = 128, 2048
    q, k, v = drawn(3, 1, time, 1, width, dtype=BF16).unbind(0)
    blocks = cutting.forward_blocks(lines, width, q.dtype)
    q, k, v = (x.expand(8, -1, 16, -1) for x in (q, k, v))
    plan = cutting.forward_plan(blocks, lines, time, width, 64)
    one_head = [(program, 0, 0) for program in range(plan.programs * (width // blocks.values))]
    with unpoisoned(), only_programs(*one_head), traffic() as moved:
        kernels.grouped_attention_op(q, k, v, None, torch.zeros(16, 32), 0.5, 64)
    assert moved.total / least(time, width, 4) <= 2


@only_interpreted
@pytest.mark.parametrize(("hopper", "group", "most"), [(True, 64, 2), (True, 16, 2), (False, 64, 2.4)])
def test_bytes_backward(hopper: bool, group: int, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over q, k, v, the output's gradient and theirs, each once; one head, cut as each of 128 is.

    A chip before Hopper has no registers for keys and values in one pass: both read q, k and the output's gradient.
    """
    time, width = 2048, 64
    cut = cutting.backward_plan(128, time, width, group, BF16, hopper)
    monkeypatch.setattr(kernels, "backward_plan", lambda *sizes: cut)
    q, k, v = drawn(3, 1, time, 1, width, dtype=BF16).unbind(0)
    with traffic() as moved:
        kernels.grouped_attention_backward_op(v, q, k, v, torch.ones(1), torch.zeros(1, 32), 0.0, group)
    assert moved.total / least(time, width, 7) <= most, moved.total / least(time, width, 7)


@only_interpreted
def test_more_entries_than_32_bits_count() -> None:
    """Of 2^19 heads of 64 tokens and 64 columns only the last is computed; the inputs are one head, expanded."""
    heads = 2**19
    q, k, v, gradient = drawn(4, 1, 64, 1, 64, dtype=BF16).unbind(0)
    options = (None, None, 0.5, 64)
    o = kernels.grouped_attention_op(q, k, v, *options)
    expected = kernels.grouped_attention_backward_op(gradient, q, k, v, *options)
    q, k, v, gradient = (x.expand(-1, -1, heads, -1) for x in (q, k, v, gradient))
    with unpoisoned(), only_programs((heads - 1, 0, 0)):
        large = kernels.grouped_attention_op(q, k, v, *options)
        found = kernels.grouped_attention_backward_op(gradient, q, k, v, *options)
    assert large.numel() == 2**31
    torch.testing.assert_close(large[:, :, -1:], o, rtol=0, atol=0)
    for one, many in zip(expected[:3], found[:3], strict=True):
        torch.testing.assert_close(many[:, :, -1:], one, rtol=0, atol=0)
