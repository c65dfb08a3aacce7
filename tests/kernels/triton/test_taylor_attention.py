import pytest
import torch
from torch import Tensor

from recallfront.kernels.taylor_attention import triton as kernels
from recallfront.kernels.taylor_attention.operator import (
    taylor_attention,
    taylor_attention_extend,
    taylor_attention_step,
)
from tests.kernels.triton.accuracy import assert_accurate, check_operator, compare_with_reference
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("o", "grad q", "grad k", "grad v")
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def draw(
    time: int,
    features: int,
    values: int,
    dtype: torch.dtype = F32,
    batch: int = 1,
    heads: int = 1,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(time + 1000 * features + 10**6 * values + seed)
    q, k, v = (
        torch.randn(batch, time, heads, width, generator=generator).to(dtype)
        for width in (features, features, values)
    )
    return q, k, v


def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
    return (taylor_attention(q, k, v, backend="triton"),)


def reference(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
    return (taylor_attention(q, k, v, backend="reference"),)


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 tokens (256 from 17 features on) in texts of any length."""
    monkeypatch.setattr(kernels, "_ALONE", 0)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel for the whole text, however few the heads."""
    monkeypatch.setattr(kernels, "_ALONE", 0)
    monkeypatch.setattr(kernels, "_FILLED", 0)


@pytest.mark.parametrize(
    ("time", "features", "values"),
    [(1, 5, 7), (2, 1, 1), (63, 9, 3), (64, 16, 16), (65, 3, 33), (100, 17, 5)],
)
def test_within_a_chunk(time: int, features: int, values: int, device: torch.device) -> None:
    given, *more = (
        draw(time, features, values, batch=2, heads=3, seed=seed) for seed in range(1 + 20 // time)
    )
    compare_with_reference(run, reference, given, device=device, names=NAMES, more=more)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize(
    ("time", "features", "values", "dtype"),
    [
        (129, 8, 16, F32),
        (260, 3, 40, F32),
        (257, 16, 64, BF16),
        (300, 13, 130 - 63, BF16),
        (270, 32, 128, BF16),
        (300, 23, 9, BF16),
        (300, 16, 33, F16),
        (257, 18, 16, F16),
    ],
)
def test_across_chunks(
    time: int, features: int, values: int, dtype: torch.dtype, device: torch.device
) -> None:
    given = draw(time, features, values, dtype)
    compare_with_reference(run, reference, given, device=device, names=NAMES)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(
    ("time", "features", "values"),
    [
        (1, 16, 64),
        (63, 5, 7),
        (64, 8, 33),
        (65, 16, 64),
        (100, 9, 128),
        (200, 16, 64),
        (200, 12, 31),
        (1, 32, 16),
        (65, 17, 5),
        (130, 18, 9),
        (130, 24, 33),
        (100, 31, 40),
        (70, 32, 128),
    ],
)
def test_in_one_kernel(time: int, features: int, values: int, device: torch.device) -> None:
    q, k, v = draw(time, features, values, BF16, heads=2)
    assert kernels.is_fused(q, v)
    more = [draw(time, features, values, BF16, heads=2, seed=1)]
    # one token alone has the output v whatever q and k: their gradients are roundings alone
    compare_with_reference(
        run, reference, (q, k, v), device=device, names=NAMES, more=more, backward=time > 1
    )


@pytest.mark.parametrize(("scale", "eps"), [(1.0, 0.5), (-0.3, 0.0), (0.0, 1e-6)])
@pytest.mark.parametrize("way", ["alone", "chunked", "fused"])
def test_scale_and_eps(
    way: str, scale: float, eps: float, device: torch.device, request: pytest.FixtureRequest
) -> None:
    if way != "alone":
        request.getfixturevalue(way)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
        return (taylor_attention(q, k, v, scale=scale, eps=eps, backend="triton"),)

    def defined(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
        return (taylor_attention(q, k, v, scale=scale, eps=eps, backend="reference"),)

    compare_with_reference(attend, defined, draw(140, 7, 20, BF16), device=device, names=NAMES)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("way", ["chunked", "fused"])
def test_inputs_need_not_lie_together(way: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    """Queries, keys and values as a projection leaves them side by side, and entries that are far apart."""
    request.getfixturevalue(way)
    q, k, v = draw(150, 11, 24, BF16, batch=2, heads=2)
    together = torch.cat([x.flatten(2) for x in (q, k, v)], dim=-1)

    def split(together: Tensor) -> tuple[Tensor]:
        q, k, v = (x.unflatten(2, (2, -1)) for x in together.split([22, 22, 48], dim=-1))
        return run(q, k, v)

    def defined(together: Tensor) -> tuple[Tensor]:
        q, k, v = (x.unflatten(2, (2, -1)) for x in together.split([22, 22, 48], dim=-1))
        return reference(q, k, v)

    compare_with_reference(split, defined, [together], device=device, names=("o", "gradient"))
    far = [x.transpose(1, 3).contiguous().transpose(1, 3).to(device) for x in (q, k, v)]
    assert far[0].stride(-1) != 1
    near = [x.to(device) for x in (q, k, v)]
    torch.testing.assert_close(run(*far)[0], run(*near)[0], rtol=0, atol=0)


def test_large_scores_in_float16(device: torch.device) -> None:
    """Weights beyond what float16 holds (65504), outputs within."""
    q, k, v = draw(70, 16, 16, F16)
    compare_with_reference(run, reference, (q * 30, k * 30, v), device=device, names=NAMES, backward=False)


def test_the_way_forward_follows_from_the_sizes() -> None:
    q, _, v = draw(513, 16, 64, BF16, batch=8, heads=8)
    assert kernels.is_fused(q, v)
    assert not kernels.is_fused(q[:7], v[:7])  # too few programs
    assert not kernels.is_fused(q[:, :512], v[:, :512])  # no state needed
    assert not kernels.is_fused(q.float(), v.float())
    q, v = (x.new_empty(8, 513, 16, width) for x, width in ((q, 32), (v, 64)))
    assert kernels.is_fused(q[:4], v[:4])
    assert not kernels.is_fused_back(q[:7], v[:7])  # one program a head: the forward pass has two
    assert kernels.is_fused_back(q, v)


@only_interpreted
@pytest.mark.parametrize("way", ["alone", "fused"])
def test_more_entries_than_32_bits_count(way: str, request: pytest.FixtureRequest) -> None:
    """Of 2^20 heads of 64 tokens and 32 values only the last is computed; the inputs are one head, expanded."""
    if way == "fused":
        request.getfixturevalue(way)
    heads, generator = 2**20, torch.Generator().manual_seed(0)
    q, k, v, gradient = (
        torch.randn(1, 64, 1, width, generator=generator).to(BF16) for width in (8, 8, 32, 32)
    )
    o, denominators = kernels.attend(q, k, v, 0.25, 1e-6)
    expected = kernels.attend_backward(gradient, q, k, v, o, denominators, 0.25)
    q, k, v, gradient = (x.expand(-1, -1, heads, -1) for x in (q, k, v, gradient))
    with unpoisoned(), only_programs((heads - 1, 0, 0)):
        large, denominators = kernels.attend(q, k, v, 0.25, 1e-6)
        found = kernels.attend_backward(gradient, q, k, v, large, denominators, 0.25)
    assert large.numel() == 2**31
    torch.testing.assert_close(large[:, :, -1:], o, rtol=0, atol=0)
    for name, one, many in zip("qkv", expected, found, strict=True):
        torch.testing.assert_close(many[:, :, -1:], one, rtol=0, atol=0, msg=f"gradient of {name}")


# ---- going on from a state ----


def state_of(features: int, values: int, batch: int, heads: int, device: torch.device) -> Tensor:
    """A state as 20 tokens leave it."""
    q, k, v = draw(20, features, values, batch=batch, heads=heads, seed=9)
    empty = torch.zeros(batch, heads, 1 + features + features * (features + 1) // 2, values + 1)
    return taylor_attention_extend(q, k, v, empty, features**-0.5, 1e-6)[1].to(device)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("time", "features", "values", "dtype"),
    [(1, 5, 7, F32), (65, 6, 20, F32), (140, 16, 64, BF16), (260, 24, 33, BF16), (100, 8, 16, F16)],
)
def test_extend(
    time: int, features: int, values: int, dtype: torch.dtype, padded: bool, device: torch.device
) -> None:
    given = draw(time, features, values, dtype, batch=2, heads=2)
    state = state_of(features, values, 2, 2, device)
    padding = torch.rand(2, time, generator=torch.Generator().manual_seed(0)) < 0.3 if padded else None
    scale, eps = features**-0.5, 1e-6
    there = None if padding is None else padding.to(device)
    q, k, v = (x.to(device) for x in given)
    found = taylor_attention_extend(q, k, v, state, scale, eps, there, backend="triton")
    q, k, v = given
    rough = taylor_attention_extend(q, k, v, state.cpu(), scale, eps, padding)
    q, k, v = (x.double() for x in given)
    exact = taylor_attention_extend(q, k, v, state.cpu().double(), scale, eps, padding)
    assert_accurate(found[0], rough[0], exact[0], "o")
    # the state is summed from products of the inputs' type
    assert_accurate(found[1].to(dtype), rough[1].to(dtype), exact[1], "state")


def test_extend_in_pieces_is_the_whole(device: torch.device) -> None:
    q, k, v = (x.to(device) for x in draw(90, 8, 16))
    whole = run(q, k, v)[0]
    state = torch.zeros(1, 1, 45, 17, device=device)
    pieces = []
    for start, end in ((0, 1), (1, 64), (64, 90)):
        here = slice(start, end)
        o, state = taylor_attention_extend(
            q[:, here], k[:, here], v[:, here], state, 8**-0.5, 1e-6, backend="triton"
        )
        pieces.append(o)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "values", "dtype"), [(1, 1, F32), (5, 7, F32), (16, 64, F32), (16, 64, BF16), (32, 128, F16)]
)
def test_steps(features: int, values: int, dtype: torch.dtype, device: torch.device) -> None:
    given = draw(3, features, values, dtype, batch=2, heads=2)
    state = state_of(features, values, 2, 2, device)
    kept = state
    rough, exact = state.cpu().clone(), state.cpu().double()
    for time in range(3):
        q, k, v = (x[:, time] for x in given)
        o, state = taylor_attention_step(q.to(device), k.to(device), v.to(device), state, backend="triton")
        assert state is kept
        rough_o, rough = taylor_attention_step(q, k, v, rough)
        exact_o, exact = taylor_attention_step(q.double(), k.double(), v.double(), exact)
        assert_accurate(o, rough_o, exact_o, f"o of step {time}")
        assert_accurate(state, rough, exact, f"state of step {time}")


# ---- what no kernel covers ----


def test_uncovered(device: torch.device) -> None:
    q, k, v = (x.to(device) for x in draw(4, 33, 8))
    with pytest.raises(ValueError, match="feature dimension is 33; the kernel has at most 32"):
        run(q, k, v)
    q, k, v = (x.to(device) for x in draw(4, 8, 129))
    with pytest.raises(ValueError, match="values have 129 channels"):
        run(q, k, v)
    with pytest.raises(ValueError, match=r"inputs are torch\.float64"):
        run(*(x.double() for x in draw(4, 8, 8)))
    q, k, v = (x.to(device) for x in draw(4, 8, 8))
    state = torch.zeros(1, 1, 45, 9, device=device)
    with pytest.raises(ValueError, match="scale is -1.0"):
        taylor_attention_extend(q, k, v, state, -1.0, 0.0, backend="triton")
    with pytest.raises(ValueError, match=r"state is torch\.float64"):
        taylor_attention_extend(q, k, v, state.double(), 1.0, 0.0, backend="triton")
    with pytest.raises(ValueError, match="a gradient is wanted"):
        taylor_attention_extend(q.requires_grad_(), k, v, state, 1.0, 0.0, backend="triton")
    loose = torch.zeros(1, 1, 9, 45, device=device).transpose(2, 3)
    with pytest.raises(ValueError, match="do not lie together"):
        taylor_attention_step(q[:, 0].detach(), k[:, 0], v[:, 0], loose, backend="triton")


# ---- PyTorch's view ----


def test_registration(device: torch.device) -> None:
    q, k, v = (x.to(device).requires_grad_() for x in draw(5, 4, 6))
    check_operator(kernels.attend, q, k, v, 0.5, 1e-6)
    q, k, v = (x.detach() for x in (q, k, v))
    o, denominators = kernels.attend(q, k, v, 0.5, 1e-6)
    check_operator(kernels.attend_backward, o, q, k, v, o, denominators, 0.5)
    state = torch.zeros(1, 1, 15, 7, device=device)
    padding = torch.zeros(1, 5, dtype=torch.bool, device=device)
    check_operator(kernels.extend, q, k, v, state, None, 0.5, 1e-6)
    check_operator(kernels.extend, q, k, v, state, padding, 0.5, 1e-6)
    check_operator(kernels.step, q[:, 0], k[:, 0], v[:, 0], state, 0.5, 1e-6)


# ---- bytes ----


def least(time: int, features: int, values: int, heads: int) -> int:
    """Bytes of q, k, v and o, in bfloat16."""
    return 2 * time * heads * (2 * features + 2 * values)


@only_interpreted
@pytest.mark.parametrize(
    ("features", "values"), [(8, 64), (16, 64), (16, 128), (24, 64), (32, 64), (32, 128)]
)
def test_bytes_forward(features: int, values: int) -> None:
    """At batch x heads = 128, of which one head's programs run: all move as much."""
    heads, time = 128, 2048
    q, k, v = draw(1, features, values, BF16)
    q, k, v = (x.expand(8, time, 16, -1).contiguous() for x in (q, k, v))
    assert kernels.is_fused(q, v)
    with only_programs(*((0, part, 0) for part in range(values // 32))), traffic() as moved:
        kernels.attend(q, k, v, 0.25, 1e-6)
    assert moved.total * heads / least(time, features, values, heads) <= 2


@only_interpreted
@pytest.mark.parametrize(
    ("features", "values", "time"),
    [
        (8, 64, 2048),
        (16, 32, 2048),
        (16, 64, 2048),
        (16, 128, 2048),
        (24, 64, 576),
        (32, 64, 576),
        (32, 128, 576),
    ],
)
def test_bytes_backward(features: int, values: int, time: int) -> None:
    """Over q, k, v, o, its gradient and theirs, each once, at batch x heads = 128: all heads move as much.

    Every tile moves as much too, so where one takes the interpreter long fewer than 2,048 tokens tell the same.
    """
    heads = 128
    q, k, v = (x.expand(8, time, 16, -1) for x in draw(1, features, values, BF16))
    o, denominators = torch.zeros(v.shape, dtype=BF16), torch.ones(8, time, 16)
    assert kernels.is_fused_back(q, v)
    with only_programs((0, 0, 0)), traffic() as moved:
        kernels.attend_backward(o, q, k, v, o, denominators, 0.25)
    ratio = moved.total * heads / (2 * least(time, features, values, heads))
    assert ratio <= 2, ratio


@only_interpreted
def test_bytes_backward_in_chunks() -> None:
    """Few heads: nothing here depends on their number.

    Above the forward pass's: a third are the two states of each chunk, a third inputs that several blocks of
    features read, most of them from the chip's second cache.
    """
    q, k, v = draw(2048, 16, 64, BF16)
    assert not kernels.is_fused_back(q, v)
    o, denominators = torch.zeros_like(v), torch.ones(1, 2048, 1)
    with traffic() as moved:
        kernels.attend_backward(o, q, k, v, o, denominators, 0.25)
    assert moved.total / (2 * 2048 * (4 * 16 + 4 * 64)) <= 4.3


@only_interpreted
@pytest.mark.parametrize(("features", "values"), [(16, 64), (32, 128)])
def test_bytes_of_a_step(features: int, values: int) -> None:
    q, k, v = (x[:, 0] for x in draw(1, features, values, BF16))
    state = torch.zeros(1, 1, 1 + features + features * (features + 1) // 2, values + 1)
    with traffic(addresses=True) as moved:
        kernels.step(q, k, v, state, 0.25, 1e-6)
    assert moved.total / (8 * state.numel() + 2 * (2 * features + 2 * values)) <= 1.15
    assert moved.loads(state).eq(1).all() and moved.stores(state).eq(1).all()
