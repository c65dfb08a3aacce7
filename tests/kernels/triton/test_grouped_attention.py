from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recallfront.kernels.backend import Backend
from recallfront.kernels.grouped_attention import plan as cutting
from recallfront.kernels.grouped_attention import triton as kernels
from recallfront.kernels.grouped_attention.operator import (
    grouped_attention,
    grouped_attention_step,
    grouped_attention_tree,
)
from tests.kernels.triton.accuracy import assert_accurate, check_operator, compare_with_reference
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
    compare_with_reference(run, reference, given, device=device, names=NAMES, more=more)


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
    monkeypatch.setattr(kernels, "_hopper", lambda device: False)
    run, reference = attending("triton", group), attending("reference", group)
    given = draw(520 if group < 64 else 330, 16, 33, BF16, heads=1)
    compare_with_reference(run, reference, given, device=device, names=NAMES)


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


# ---- one token, and a draft tree ----


def state_of(
    length: int, width: int, group: int, taps: int, batch: int = 2, heads: int = 2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """sums, keys, values and tail as `length` tokens leave them."""
    sums, keys, values, tail = (
        torch.zeros(batch, heads, slots, width) for slots in (width, group, group, max(taps, 1))
    )
    weights = torch.zeros(heads, max(taps, 1))
    for place, (q, k, v) in enumerate(drawn(length, 3, batch, heads, width, seed=length)):
        lengths = torch.full((batch,), place)
        grouped_attention_step(q, k, v, sums, keys, values, lengths, tail=tail, conv_taps=weights)
    return sums, keys, values, tail


@pytest.mark.parametrize(
    ("length", "width", "group", "taps", "dtype"),
    [
        (0, 5, 1, 0, F32),
        (2, 16, 4, 3, F32),
        (9, 33, 5, 40, F32),
        (70, 24, 64, 33, BF16),
        (6, 128, 6, 2, BF16),
        (3, 64, 32, 0, F16),
    ],
)
def test_steps(
    length: int, width: int, group: int, taps: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Rows at different positions, over the ends of groups."""
    states = [x for x in state_of(length, width, group, taps)[: 4 if taps else 3]]
    found = [x.to(device) for x in states]
    exact = [x.double() for x in states]
    filters = drawn(2, taps, dtype=dtype, seed=1) if taps else None
    scale = torch.tensor([0.7], dtype=dtype)
    for place in range(3):
        q, k, v = drawn(3, 2, 2, width, dtype=dtype, seed=place).unbind(0)
        lengths = torch.tensor([length + place, length + place])

        def step(kept: list[Tensor], *weights: Tensor | None, backend: Backend) -> Tensor:
            *given, scale, taps = weights
            tail = kept[3] if len(kept) == 4 else None
            q, k, v, lengths = given
            assert (
                q is not None
                and k is not None
                and v is not None
                and lengths is not None
                and scale is not None
            )
            return grouped_attention_step(
                q, k, v, kept[0], kept[1], kept[2], lengths,
                cross_scale=scale, tail=tail, conv_taps=taps, backend=backend,
            )  # fmt: skip

        inputs = [q, k, v, lengths, scale, filters]
        o = step(found, *(None if x is None else x.to(device) for x in inputs), backend="triton")
        rough = step(states, *inputs, backend="reference")
        truth = step(
            exact, *(x if x is None or x is lengths else x.double() for x in inputs), backend="reference"
        )
        assert_accurate(o, rough, truth, f"o of step {place}")
        for name, ours, theirs, right in zip(
            ("sums", "keys", "values", "tail"), found, states, exact, strict=False
        ):
            assert_accurate(ours, theirs, right, f"{name} after step {place}")


TREE = (-1, 0, 0, 1, 1, 2, 3, 6, 7, 2)  # the parent of each node


def tree_of(parents: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Which nodes each node goes on from, itself included, and the nodes' depths."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen, seen.sum(1) - 1


@pytest.mark.parametrize(
    ("length", "width", "group", "taps", "dtype"),
    [
        (0, 5, 1, 0, F32),
        (2, 16, 4, 3, F32),
        (9, 33, 5, 40, F32),
        (7, 64, 40, 6, F32),
        (66, 24, 64, 33, BF16),
        (5, 128, 6, 2, BF16),
        (3, 64, 32, 0, F16),
    ],
)
def test_trees(
    length: int, width: int, group: int, taps: int, dtype: torch.dtype, device: torch.device
) -> None:
    """A tree whose branches run over the ends of groups, and of two programs' nodes."""
    parents = TREE if dtype == F32 else (*TREE, *range(len(TREE) - 1, len(TREE) + 9))
    seen, depths = tree_of(parents)
    states = list(state_of(length, width, group, taps)[: 4 if taps else 3])
    kept = [x.clone() for x in states]
    lengths = torch.tensor([length, length])
    q, k, v = drawn(3, 2, len(parents), 2, width, dtype=dtype).unbind(0)
    inputs = [q, k, v, lengths, lengths[:, None] + depths, seen, torch.tensor([0.7], dtype=dtype)]
    inputs += [drawn(2, taps, dtype=dtype, seed=1)] if taps else []

    def attend(given: list[Tensor], states: list[Tensor], backend: Backend) -> Tensor:
        q, k, v, lengths, positions, seen, scale, *filters = given
        tail = dict(tail=states[3], conv_taps=filters[0]) if filters else {}
        return grouped_attention_tree(
            q, k, v, states[0], states[1], states[2], lengths, positions, seen,
            cross_scale=scale, backend=backend, **tail,
        )  # fmt: skip

    def exactly(given: list[Tensor]) -> list[Tensor]:
        return [x.double() if x.is_floating_point() else x for x in given]

    o = attend([x.to(device) for x in inputs], [x.to(device) for x in states], "triton")
    rough = attend(inputs, states, "reference")
    exact = attend(exactly(inputs), exactly(states), "reference")
    assert_accurate(o, rough, exact)
    torch.testing.assert_close(attend(exactly(inputs), exactly(states), "auto"), exact)
    assert all(torch.equal(x, before) for x, before in zip(states, kept, strict=True))


# ---- PyTorch's view ----


def test_registration(device: torch.device) -> None:
    q, k, v, scale, taps = (x if x is None else x.to(device) for x in draw(9, 4, 3, F32))
    leaves = [x if x is None else x.clone().requires_grad_() for x in (q, k, v, scale, taps)]
    check_operator(kernels.grouped_attention_op, *leaves, 0.0, 4)
    check_operator(kernels.grouped_attention_op, *leaves[:3], None, None, 0.5, 4)
    check_operator(kernels.grouped_attention_backward_op, v, q, k, v, scale, taps, 0.0, 4)
    sums, keys, values, tail = (x.to(device) for x in state_of(3, 4, 2, 3, batch=1))
    assert q is not None and k is not None and v is not None
    states = (sums, keys, values, tail)
    lengths = torch.tensor([3], device=device)
    token = (q[:, 0], k[:, 0], v[:, 0])
    check_operator(kernels.grouped_attention_step_op, *token, *states, lengths, scale, taps, 0.0)
    check_operator(kernels.grouped_attention_step_op, *token, *states[:3], None, lengths, None, None, 0.5)
    seen, depths = (x.to(device) for x in tree_of((-1, *range(8))))
    check_operator(
        kernels.grouped_attention_tree_op, q, k, v, *states, lengths, depths[None] + 3, seen, scale, taps, 0.0
    )


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


def test_uncovered_steps(device: torch.device) -> None:
    q, k, v = (x.to(device) for x in drawn(3, 1, 2, 72, dtype=BF16).unbind(0))
    sums, keys, values = (x.to(device) for x in state_of(3, 72, 4, 0, batch=1)[:3])
    lengths = torch.tensor([3], device=device)
    grouped_attention_step(q, k, v, sums, keys, values, lengths, backend="triton")
    with pytest.raises(ValueError, match=r"a state is torch\.float64"):
        wide = sums.double(), keys.double(), values.double()
        grouped_attention_step(q, k, v, *wide, lengths, backend="triton")
    with pytest.raises(ValueError, match=r"a state is torch\.float32 with strides"):
        grouped_attention_step(q, k, v, sums.mT, keys, values, lengths, backend="triton")
    with pytest.raises(ValueError, match="a gradient is asked for"):
        grouped_attention_step(q.requires_grad_(), k, v, sums, keys, values, lengths, backend="triton")
    q, k, v = (x.float()[:, None] for x in (q.detach(), k, v))
    seen, depths = (x.to(device) for x in tree_of((-1,)))
    with pytest.raises(ValueError, match="head size is 72; the kernels have 1 to 64"):
        grouped_attention_tree(q, k, v, sums, keys, values, lengths, depths[None] + 3, seen, backend="triton")


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
def test_bytes_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over q, k, v, the output's gradient and theirs, each once; one head, cut as each of 128 is."""
    time, width = 2048, 64
    cut = cutting.backward_plan(128, time, width, 64, BF16, True)
    monkeypatch.setattr(kernels, "backward_plan", lambda *sizes: cut)
    q, k, v = drawn(3, 1, time, 1, width, dtype=BF16).unbind(0)
    with traffic() as moved:
        kernels.grouped_attention_backward_op(v, q, k, v, torch.ones(1), torch.zeros(1, 32), 0.0, 64)
    assert moved.total / least(time, width, 7) <= 2


@only_interpreted
@pytest.mark.parametrize("width", [64, 128])
def test_bytes_of_a_step(width: int) -> None:
    """At batch x heads = 256, of which one runs: every state read once, the sums and one token's slots written."""
    lines, group, size = 256, 64, 32
    q, k, v = drawn(3, 16, 16, width, dtype=BF16).unbind(0)
    states = [torch.zeros(16, 16, slots, width) for slots in (width, group, group, size)]
    taps = torch.zeros(16, size, dtype=BF16)
    with only_programs((0, 0, 0)), traffic() as moved:
        kernels.grouped_attention_step_op(q, k, v, *states, torch.full((16,), 100), torch.ones(1), taps, 0.0)
    read = sum(x.nbytes for x in (q, k, v, *states)) // lines + taps[0].nbytes
    assert moved.total / (read + states[0].nbytes // lines + 4 * 3 * width + 2 * width) <= 1.15


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
