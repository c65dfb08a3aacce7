import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recallfront.kernels.window_attention import triton as kernels
from recallfront.kernels.window_attention.operator import (
    alibi_slopes,
    window_attention,
    window_attention_step,
)
from recallfront.kernels.window_attention.plan import first_keys, key_shares, last_queries, plan, splits
from tests.kernels.triton.accuracy import assert_accurate, check_operator, compare_with_reference, gradients
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("o", "grad q", "grad k", "grad v")
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def draw(
    time: int,
    *,
    before: int = 0,
    heads: int = 2,
    kv_heads: int = 1,
    width: int = 16,
    value: int | None = None,
    dtype: torch.dtype = F32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (
        (time, heads, width),
        (before + time, kv_heads, width),
        (before + time, kv_heads, value or width),
    )
    q, k, v = (torch.randn(1, *size, generator=generator).to(dtype) for size in sizes)
    return q, k, v


def runs(
    device: torch.device,
    *,
    window_size: int | None = None,
    slopes: tuple[float, ...] | None = None,
    segments: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Callable[..., tuple[Tensor]], Callable[..., tuple[Tensor]]]:
    """The kernel and the reference, as functions of q, k and v."""

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
        there = None if segments is None else segments.to(device)
        options = {"window_size": window_size, "alibi_slopes": slopes, "scale": scale, "segments": there}
        return (window_attention(q, k, v, **options, backend="triton"),)  # type: ignore[arg-type]

    def reference(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
        options = {"window_size": window_size, "alibi_slopes": slopes, "scale": scale, "segments": segments}
        return (window_attention(q, k, v, **options, backend="reference"),)  # type: ignore[arg-type]

    return kernel, reference


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(
    ("time", "window_size", "tilted"),
    [
        (1, None, False),
        (1, 3, True),
        (63, 3, True),
        (63, None, False),
        (64, 1, True),
        (64, 64, False),
        (65, 3, False),
        (65, None, True),
        (100, 64, True),
        (100, 1, False),
        (150, 31, False),
    ],
)
def test_windows(
    time: int, window_size: int | None, tilted: bool, dtype: torch.dtype, device: torch.device
) -> None:
    slopes = alibi_slopes(2) if tilted else None
    given, *more = (draw(time, dtype=dtype, seed=seed) for seed in range(1 + 8 // time))
    kernel, reference = runs(device, window_size=window_size, slopes=slopes)
    compare_with_reference(kernel, reference, given, device=device, names=NAMES, more=more)


@pytest.mark.parametrize(
    ("width", "value", "dtype"),
    [
        (5, 5, F32),
        (24, 40, BF16),
        (80, 80, F16),
        (33, 128, BF16),
        (128, 100, F32),
        (256, 256, BF16),
        (256, 3, F32),
    ],
)
def test_head_sizes(width: int, value: int, dtype: torch.dtype, device: torch.device) -> None:
    kernel, reference = runs(device, window_size=20, scale=0.3)
    given = draw(40, before=3, width=width, value=value, dtype=dtype)
    # a logit sums `width` products, and each of its partial sums is rounded; some references sum in fewer steps
    ulps = max(1.0, 0.3 * width / (2 * math.sqrt(3))) if dtype == F32 else 1.0
    compare_with_reference(kernel, reference, given, device=device, names=NAMES, ulps=ulps)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 1), (4, 2), (4, 4), (6, 3)])
def test_shared_key_heads(heads: int, kv_heads: int, device: torch.device) -> None:
    kernel, reference = runs(device, slopes=alibi_slopes(heads))
    given = draw(70, heads=heads, kv_heads=kv_heads, dtype=F16)
    compare_with_reference(kernel, reference, given, device=device, names=NAMES)


def test_a_program_with_several_query_heads(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "key_shares", lambda programs, group: 2)
    kernel, reference = runs(device, window_size=50)
    given = draw(130, heads=4, dtype=BF16)
    compare_with_reference(kernel, reference, given, device=device, names=NAMES)


@pytest.mark.parametrize(("before", "window_size"), [(1, None), (70, 64), (131, 30), (37, 300)])
def test_going_on_from_cached_keys(before: int, window_size: int | None, device: torch.device) -> None:
    kernel, reference = runs(device, window_size=window_size, slopes=alibi_slopes(2))
    given = draw(66, before=before, dtype=BF16)
    compare_with_reference(kernel, reference, given, device=device, names=NAMES)


@pytest.mark.parametrize(("window_size", "dtype"), [(None, BF16), (40, F32), (300, F16)])
def test_segments(window_size: int | None, dtype: torch.dtype, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    segments = (torch.rand(1, 303, generator=generator) < 0.02).cumsum(1)
    kernel, reference = runs(device, window_size=window_size, slopes=alibi_slopes(1), segments=segments)
    given = draw(300, before=3, heads=1, dtype=dtype)
    compare_with_reference(kernel, reference, given, device=device, names=NAMES)


def test_segments_in_any_order(device: torch.device) -> None:
    segments = torch.randint(0, 3, (1, 200), generator=torch.Generator().manual_seed(0)).int()
    kernel, reference = runs(device, segments=segments)
    compare_with_reference(kernel, reference, draw(200, dtype=BF16), device=device, names=NAMES)


def test_tensors_that_are_not_contiguous(device: torch.device) -> None:
    def split(qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv[:, :, :4], qkv[:, :, 4:5], qkv[:, :, 5:]

    def kernel(qkv: Tensor) -> tuple[Tensor]:
        return (window_attention(*split(qkv), window_size=9, backend="triton"),)

    def turned(qkv: Tensor) -> tuple[Tensor]:
        apart = (x.movedim(3, 1).contiguous().movedim(1, 3) for x in split(qkv))
        return (window_attention(*apart, window_size=9, backend="triton"),)

    def reference(qkv: Tensor) -> tuple[Tensor]:
        return (window_attention(*split(qkv), window_size=9, backend="reference"),)

    qkv = torch.randn(2, 40, 6, 16, generator=torch.Generator().manual_seed(0))
    compare_with_reference(kernel, reference, [qkv], device=device)
    compare_with_reference(turned, reference, [qkv], device=device)


def test_the_same_bits_every_time(device: torch.device) -> None:
    def once() -> list[Tensor]:
        q, k, v = (x.to(device).requires_grad_() for x in draw(100, heads=4, dtype=BF16))
        o = window_attention(q, k, v, window_size=33, backend="triton")
        return [o, *torch.autograd.grad(o.float().square().sum(), (q, k, v))]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


@only_interpreted
@pytest.mark.parametrize(("window_size", "before"), [(64, 0), (50, 7), (300, 0), (None, 5)])
def test_no_block_of_keys_outside_the_window_is_loaded(window_size: int | None, before: int) -> None:
    q, k, v = draw(200, before=before, heads=1, dtype=BF16)
    keys = before + 200
    window = window_size or keys
    size = plan(16, 16, BF16, window_size, False, False).forward
    programs = -(-200 // size.queries)
    for program in range(programs):
        first = before + (programs - 1 - program) * size.queries  # the last block comes first
        low, high = max(first - window + 1, 0), min(first + size.queries, keys)
        with only_programs((program, 0, 0)), traffic(addresses=True) as moved:
            kernels.window_attention_op(q, k, v, None, None, window_size, 0.25)
        for tensor in (k, v):
            times = moved.loads(tensor)[0, :, 0, 0]
            loaded = times.nonzero()[:, 0]
            assert int(times.max()) == 1
            assert int(loaded.min()) == low
            assert int(loaded.max()) < low + -(-(high - low) // size.keys) * size.keys


@only_interpreted
@pytest.mark.parametrize(
    ("window_size", "before", "dtype"), [(64, 0, BF16), (50, 7, BF16), (None, 5, BF16), (50, 7, F32)]
)
def test_nor_is_it_on_the_way_back(window_size: int | None, before: int, dtype: torch.dtype) -> None:
    q, k, v = draw(200, before=before, heads=1, dtype=dtype)
    window = window_size or before + 200
    cut = plan(16, 16, dtype, window_size, False, False)
    o, norms = kernels.window_attention_op(q, k, v, None, None, window_size, 0.25)
    for program in range(-(-200 // max(cut.queries.queries, cut.keys.keys))):
        with only_programs((program, 0, 0)), traffic(addresses=True) as moved:
            kernels.window_attention_backward_op(o, q, k, v, o, norms, None, None, window_size, 0.25)
        # of the queries' pass the last block comes first
        first = before + (-(-200 // cut.queries.queries) - 1 - program) * cut.queries.queries
        low, high = max(first - window + 1, 0), min(first + cut.queries.queries, before + 200)
        seen = torch.zeros(before + 200, dtype=torch.bool)
        seen[low : low + -(-(high - low) // cut.queries.keys) * cut.queries.keys] = True
        block = program * cut.keys.keys
        seen[block : block + cut.keys.keys] = True
        loaded = moved.loads(k)[0, :, 0, 0] > 0
        assert bool(loaded.any())
        assert not bool(loaded[~seen].any())
        reached = torch.zeros(200, dtype=torch.bool)
        reached[first - before : first - before + cut.queries.queries] = True
        begin, end = max(block - before, 0), block + cut.keys.keys + window - 1 - before
        end = begin + -(-(end - begin) // cut.keys.queries) * cut.keys.queries
        reached[begin:end] = True
        assert not bool((moved.loads(q)[0, :, 0, 0] > 0)[~reached].any())


def test_segments_and_lengths_that_are_not_contiguous(device: torch.device) -> None:
    segments = torch.tensor([0, 9, 0, 9, 1, 9, 1, 9, 2, 9])[::2].expand(1, -1)
    kernel, reference = runs(device, segments=segments)
    compare_with_reference(kernel, reference, draw(5), device=device, names=NAMES)
    ring, token = torch.randn(2, 1, 8, 16, device=device), torch.ones(2, 1, 16, device=device)
    lengths = torch.tensor(3, device=device).expand(2)
    o = window_attention_step(token, token, token, ring.clone(), ring.clone(), lengths, backend="triton")
    expected = window_attention_step(token, token, token, ring, ring.clone(), lengths, backend="reference")
    torch.testing.assert_close(o, expected)


def test_no_texts_at_all(device: torch.device) -> None:
    q, k, v = (x[:0].to(device).requires_grad_() for x in draw(4))
    segments = torch.zeros(0, 4, dtype=torch.long, device=device)
    for options in ({"window_size": 3}, {"window_size": 1}, {"segments": segments}):
        o = window_attention(q, k, v, **options, backend="triton")
        assert o.shape == (0, 4, 2, 16)
        assert all(g.numel() == 0 for g in torch.autograd.grad(o.sum(), (q, k, v)))
    token, ring = torch.ones(0, 1, 16, device=device), torch.ones(0, 1, 8, 16, device=device)
    lengths = torch.zeros(0, dtype=torch.long, device=device)
    assert (
        window_attention_step(token, token, token, ring, ring, lengths, backend="triton").shape == token.shape
    )


def test_segments_bound_what_is_loaded() -> None:
    segments = torch.tensor([[0] * 100 + [1] * 100 + [2] * 56])
    assert first_keys(segments, 256, 64).tolist() == [[0, 0, 64, 64]]
    assert last_queries(segments, 256, 64).tolist() == [[128, 256, 256, 256]]
    assert last_queries(segments, 56, 64).tolist() == [[0, 0, 0, 64]]


def test_how_programs_share() -> None:
    assert [key_shares(programs, 12) for programs in (1, 40, 70, 140, 300)] == [12, 12, 4, 2, 1]
    assert splits(1024, 4096, 1) == (1, 4096)
    assert splits(8, 100, 1) == (1, 128)
    assert splits(8, 65536, 1) == (64, 1024)
    assert splits(8, 4096, 16) == (4, 1024)


@only_interpreted
def test_more_than_2_to_the_31_elements() -> None:
    batch, time = (1 << 31) // (64 * 128) + 1, 64
    inputs = draw(time, heads=1, width=128, dtype=BF16)
    weights = torch.randn(1, time, 1, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    _, reference = runs(torch.device("cpu"), window_size=20, scale=0.1)
    expected = gradients(reference, inputs, (weights,))
    exact = gradients(reference, [x.double() for x in inputs], (weights,))
    q, k, v, do = (x.expand(batch, -1, -1, -1) for x in (*inputs, weights))
    with unpoisoned(), only_programs((batch - 1, 0, 0)):
        o, norms = kernels.window_attention_op(q, k, v, None, None, 20, 0.1)
        grads = kernels.window_attention_backward_op(do, q, k, v, o, norms, None, None, 20, 0.1)
    assert o.numel() > 1 << 31
    for found, rough, right in zip((o, *grads), expected, exact, strict=True):
        assert rough is not None and right is not None
        assert_accurate(found[-1:], rough, right)


@only_interpreted
def test_a_text_of_more_than_2_to_the_31_elements() -> None:
    time = (1 << 31) // (64 * 128) + 1
    q, k, v = (x.expand(-1, time, 64, -1) for x in draw(1, heads=1, width=128, dtype=BF16))
    blocks = -(-time // plan(128, 128, BF16, 64, False, False).forward.queries)
    with unpoisoned(), only_programs((63 * blocks, 0, 0)):
        o, _ = kernels.window_attention_op(q, k, v, None, None, 64, 0.1)
    assert o.numel() > 1 << 31
    torch.testing.assert_close(o[0, -1, -1], v[0, 0, 0], atol=0.0, rtol=2**-8)


def test_operators_under_compile(device: torch.device) -> None:
    q, k, v = (x.to(device) for x in draw(5, heads=2, dtype=F32))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    check_operator(kernels.window_attention_op, *leaves, None, [0.5, 0.25], 3, 0.25)
    segments = torch.zeros(1, 5, dtype=torch.long, device=device)
    check_operator(kernels.window_attention_op, *leaves, segments, None, None, 0.25)
    q, k, v, keys, values = (
        torch.randn(2, *size, 16, device=device) for size in ((4,), (2,), (2,), (2, 8), (2, 8))
    )
    lengths = torch.tensor([3, 9], device=device)
    check_operator(
        kernels.window_attention_step_op, q, k, v, keys, values, lengths, None, [0.5, 0.5, 1.0, 2.0], 0.25
    )


def test_what_no_kernel_covers(device: torch.device) -> None:
    q, k, v = (x.to(device) for x in draw(4, width=300))
    with pytest.raises(ValueError, match="head sizes of k and v are 300 and 300; the kernels have 1 to 256"):
        window_attention(q, k, v, backend="triton")
    q, k, v = (x.to(device) for x in draw(4))
    with pytest.raises(ValueError, match="float64; the kernels have float32"):
        window_attention(q.double(), k.double(), v.double(), backend="triton")
    with pytest.raises(ValueError, match="distance_bias is given"):
        window_attention(q, k, v, distance_bias=torch.ones(2, 3, device=device), backend="triton")
    with pytest.raises(ValueError, match="scale is -1"):
        window_attention(q, k, v, scale=-1.0, backend="triton")
    token, ring = torch.randn(1, 1, 16, device=device), torch.randn(1, 1, 8, 16, device=device)
    lengths = torch.zeros(1, dtype=torch.long, device=device)
    with pytest.raises(ValueError, match="a gradient is asked for"):
        window_attention_step(token.requires_grad_(), token, token, ring, ring, lengths, backend="triton")
