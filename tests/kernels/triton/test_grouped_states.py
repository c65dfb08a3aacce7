"""Grouped attention that goes on from a state: one token, and a draft tree."""

import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.grouped_attention import plan as cutting
from recallfront.kernels.grouped_attention import triton as kernels
from recallfront.kernels.grouped_attention.operator import grouped_attention_step, grouped_attention_tree
from tests.kernels.triton.accuracy import assert_accurate, check_operator
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned
from tests.kernels.triton.test_grouped_attention import BF16, F16, F32, drawn, only_interpreted


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
    ("length", "width", "group", "taps", "dtype", "crowded"),
    [
        (0, 5, 1, 0, F32, False),
        (2, 16, 4, 3, F32, False),
        (9, 33, 5, 40, F32, False),
        (7, 64, 40, 6, F32, False),
        (66, 24, 64, 33, BF16, False),
        (66, 64, 64, 33, BF16, True),
        (5, 128, 6, 2, BF16, False),
        (3, 64, 32, 0, F16, False),
    ],
)
def test_trees(
    length: int,
    width: int,
    group: int,
    taps: int,
    dtype: torch.dtype,
    crowded: bool,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tree whose branches run over the ends of groups, and of two programs' nodes."""
    if crowded:
        monkeypatch.setattr(cutting, "_CHIP", 1)
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


def test_registration(device: torch.device) -> None:
    q, k, v = (x.to(device) for x in drawn(3, 1, 9, 2, 4).unbind(0))
    scale, taps = torch.tensor([0.4], device=device), drawn(2, 3).to(device)
    sums, keys, values, tail = (x.to(device) for x in state_of(3, 4, 2, 3, batch=1))
    states = (sums, keys, values, tail)
    lengths = torch.tensor([3], device=device)
    token = (q[:, 0], k[:, 0], v[:, 0])
    check_operator(kernels.grouped_attention_step_op, *token, *states, lengths, scale, taps, 0.0)
    check_operator(kernels.grouped_attention_step_op, *token, *states[:3], None, lengths, None, None, 0.5)
    seen, depths = (x.to(device) for x in tree_of((-1, *range(8))))
    check_operator(
        kernels.grouped_attention_tree_op, q, k, v, *states, lengths, depths[None] + 3, seen, scale, taps, 0.0
    )


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
def test_sums_of_more_entries_than_32_bits_count() -> None:
    """Of 2^19 heads of 64 columns, in groups of one, only the last takes its step."""
    heads, width = 2**19, 64
    q, k, v = drawn(3, 1, heads, 1, dtype=BF16).expand(-1, -1, -1, width).unbind(0)
    lengths = torch.tensor([5])
    with unpoisoned():
        states = [torch.empty(1, heads, slots, width) for slots in (width, 1, 1)]
    for state in states:
        state[:, -1] = drawn(*state[:, -1].shape)
    last = [state[:, -1:].clone() for state in states]
    with unpoisoned(), only_programs((heads - 1, 0, 0)):
        o = kernels.grouped_attention_step_op(q, k, v, *states, None, lengths, None, None, 0.5)
    q, k, v = (x[:, -1:] for x in (q, k, v))
    expected = kernels.grouped_attention_step_op(q, k, v, *last, None, lengths, None, None, 0.5)
    torch.testing.assert_close(o[:, -1:], expected)
    torch.testing.assert_close(states[0][:, -1:], last[0])
