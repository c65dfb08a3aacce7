import math

import pytest
import torch
from torch import Tensor

from recallfront.kernels.window_attention.operator import (
    alibi_slopes,
    step_bias,
    window_attention,
    window_attention_step,
)


def draw(time: int, heads: int = 4, kv_heads: int = 2, before: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q = torch.randn(2, time, heads, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, before + time, kv_heads, 8, dtype=torch.float64).unbind(0)
    return q, k, v


@pytest.mark.parametrize("window_size", [None, 1, 2, 17, 64, 1000])
@pytest.mark.parametrize("time", [1, 16, 17, 18, 128, 201])
@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)])
def test_equals_its_definition(window_size: int | None, time: int, slopes: tuple[float, ...] | None) -> None:
    q, k, v = draw(time)
    expected = window_attention(q, k, v, window_size=window_size, alibi_slopes=slopes, backend="reference")
    found = window_attention(q, k, v, window_size=window_size, alibi_slopes=slopes)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("before", [1, 3, 16, 70])
@pytest.mark.parametrize("window_size", [None, 5, 40])
@pytest.mark.parametrize("time", [1, 150])
def test_queries_that_go_on_from_cached_keys(before: int, window_size: int | None, time: int) -> None:
    q, k, v = draw(time, before=before)
    slopes = alibi_slopes(4)
    expected = window_attention(q, k, v, window_size=window_size, alibi_slopes=slopes, backend="reference")
    found = window_attention(q, k, v, window_size=window_size, alibi_slopes=slopes)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    whole_q = torch.cat([torch.randn(2, before, 4, 8, dtype=torch.float64), q], dim=1)
    whole = window_attention(whole_q, k, v, window_size=window_size, alibi_slopes=slopes)
    torch.testing.assert_close(found, whole[:, before:], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("window_size", [None, 4])
def test_segments_do_not_see_each_other(window_size: int | None) -> None:
    q, k, v = draw(12)
    segments = torch.tensor([[0] * 5 + [1] * 7, [0] * 3 + [1] * 9])
    packed = window_attention(q, k, v, window_size=window_size, segments=segments)
    expected = window_attention(q, k, v, window_size=window_size, segments=segments, backend="reference")
    torch.testing.assert_close(packed, expected, atol=1e-12, rtol=1e-12)
    alone = window_attention(q[:1, 5:], k[:1, 5:], v[:1, 5:], window_size=window_size)
    torch.testing.assert_close(packed[:1, 5:], alone, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("before", [0, 70])
@pytest.mark.parametrize("window_size", [1, 5, 64, 90])
@pytest.mark.parametrize("time", [64, 65, 150, 201])
@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)])
def test_packed_windows_across_blocks(
    before: int, window_size: int, time: int, slopes: tuple[float, ...] | None
) -> None:
    q, k, v = draw(time, before=before)
    segments = (torch.arange(before + time) // torch.tensor([[37], [110]])).contiguous()
    given = [x.requires_grad_() for x in (q, k, v)]
    results = []
    for backend in ("auto", "reference"):
        out = window_attention(
            q, k, v, window_size=window_size, alibi_slopes=slopes, segments=segments, backend=backend
        )
        results.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_packed_windows_grow_with_the_text_not_with_its_square() -> None:
    def kept_bytes(time: int) -> int:
        """Of the tensors that backward reads."""
        q, k, v = (x.requires_grad_() for x in draw(time))
        sizes: list[int] = []

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            window_attention(q, k, v, window_size=16, segments=torch.arange(time).expand(2, -1) // 100)
        return sum(sizes)

    assert kept_bytes(2048) <= 2.1 * kept_bytes(1024)


@pytest.mark.parametrize("window_size", [None, 1, 6])
def test_steps_equal_the_whole(window_size: int | None) -> None:
    q, k, v = draw(20)
    slopes = alibi_slopes(4)
    expected = window_attention(q, k, v, window_size=window_size, alibi_slopes=slopes)
    slots = window_size or 20
    keys, values = torch.zeros(2, 2, 2, slots, 8, dtype=torch.float64).unbind(0)
    for time in range(20):
        lengths = torch.tensor([time, time])
        bias = step_bias(lengths, slots, torch.float64, alibi_slopes=slopes)
        o = window_attention_step(q[:, time], k[:, time], v[:, time], keys, values, lengths, bias=bias)
        torch.testing.assert_close(o, expected[:, time], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("slopes", [None, alibi_slopes(4)])
def test_long_texts_go_in_blocks(slopes: tuple[float, ...] | None) -> None:
    q, k, v = draw(1100, before=3)
    segments = (torch.arange(1103) >= 600).long().expand(2, -1)
    for chosen in (None, segments):
        expected = window_attention(q, k, v, alibi_slopes=slopes, segments=chosen, backend="reference")
        found = window_attention(q, k, v, alibi_slopes=slopes, segments=chosen)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_values_of_another_head_size_go_in_blocks() -> None:
    q, k, v = draw(150)
    learned, v = torch.randn(4, 7, dtype=torch.float64), v[..., :3]
    expected = window_attention(q, k, v, window_size=6, distance_bias=learned, backend="reference")
    found = window_attention(q, k, v, window_size=6, distance_bias=learned)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("window_size", [None, 6])
@pytest.mark.parametrize("time", [9, 150])
def test_a_learned_bias_by_distance(window_size: int | None, time: int) -> None:
    q, k, v = draw(time)
    learned = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    expected = window_attention(q, k, v, window_size=window_size, distance_bias=learned, backend="reference")
    found = window_attention(q, k, v, window_size=window_size, distance_bias=learned)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    slope = torch.randn_like(found)
    (by_reference,) = torch.autograd.grad(expected, learned, slope)
    torch.testing.assert_close(torch.autograd.grad(found, learned, slope)[0], by_reference)


@pytest.mark.parametrize("time", [5, 130])
def test_gradients(time: int) -> None:
    q, k, v = (
        tensor[:1, ..., :2].contiguous().requires_grad_() for tensor in draw(time, heads=2, kv_heads=1)
    )

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, window_size=3, alibi_slopes=alibi_slopes(2))

    assert torch.autograd.gradcheck(run, (q, k, v), fast_mode=True)


def test_biases_j_minus_i_and_j_are_the_same() -> None:
    q, k, v = draw(9, heads=2, kv_heads=2)
    slopes = alibi_slopes(2)
    logits = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(8)
    logits = logits + torch.tensor(slopes)[:, None, None] * torch.arange(9)
    logits = logits.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), float("-inf"))
    expected = torch.einsum("bhij,bjhd->bihd", logits.softmax(-1), v)
    torch.testing.assert_close(
        window_attention(q, k, v, alibi_slopes=slopes), expected, atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("heads", "powers"),
    [
        (1, [-8]),
        (2, [-4, -8]),
        (3, [-4, -8, -2]),
        (6, [-2, -4, -6, -8, -1, -3]),
        (8, [-1, -2, -3, -4, -5, -6, -7, -8]),
        (10, [-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5]),
        (12, [-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5]),
        (16, [-0.5 * head for head in range(1, 17)]),
    ],
)
def test_slopes(heads: int, powers: list[float]) -> None:
    assert alibi_slopes(heads) == pytest.approx([2.0**power for power in powers])


def test_bad_arguments() -> None:
    q, k, v = draw(4)
    with pytest.raises(ValueError, match="window_size is 0"):
        window_attention(q, k, v, window_size=0)
    with pytest.raises(ValueError, match="must divide"):
        window_attention(q[:, :, :3], k, v)
    with pytest.raises(ValueError, match="3 alibi_slopes for 4 heads"):
        window_attention(q, k, v, alibi_slopes=(0.5, 0.25, 0.125))
    with pytest.raises(ValueError, match="q has 4 tokens and k 3"):
        window_attention(q, k[:, :3], v[:, :3])
    with pytest.raises(ValueError, match="need a GPU"):
        window_attention(q, k, v, backend="triton")


def test_bad_arguments_of_a_step() -> None:
    token, ring = torch.ones(2, 2, 4), torch.ones(2, 2, 8, 4)
    lengths = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="1 alibi_slopes for 2 heads"):
        window_attention_step(token, token, token, ring, ring, lengths, alibi_slopes=(0.5,))
    with pytest.raises(ValueError, match="keys has 2 heads and q 3; the former must divide"):
        window_attention_step(torch.ones(2, 3, 4), token, token, ring, ring, lengths)
    with pytest.raises(ValueError, match="keys has no slots"):
        window_attention_step(token, token, token, ring[:, :, :0], ring[:, :, :0], lengths)
    with pytest.raises(ValueError, match="lengths has shape"):
        window_attention_step(token, token, token, ring, ring, lengths[:1])
    with pytest.raises(ValueError, match="values has shape"):
        window_attention_step(token, token, token, ring, ring[:, :, :3], lengths)
