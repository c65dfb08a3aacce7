"""Dropout: the share that is dropped, the growth of the rest, its gradient, and attention whose weights are dropped."""

import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.dropout import dropout, keeps
from recallfront.kernels.window_attention.coverage import obstacle
from recallfront.kernels.window_attention.operator import window_attention

SHARE = 0.3


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 1e-12, 0.1, 0.5, 1 - 1e-12])
def test_a_share_is_dropped_and_the_rest_grows_by_it(share: float) -> None:
    count = 400_001
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept, growth = keeps((count,), share)
    rounded = 1 - 1 / growth
    assert rounded == pytest.approx(share, abs=2.0**-16)
    deviation = (rounded * (1 - rounded) / count) ** 0.5
    assert kept.logical_not().double().mean().item() == pytest.approx(rounded, abs=5 * deviation)


def test_neighbours_are_dropped_independently() -> None:
    """Four numbers come from one draw: none tells of another."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept = keeps((100_000, 4), 0.5)[0].double()
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 5 / 100_000**0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_kept_passes_its_gradient(dtype: torch.dtype) -> None:
    x = torch.ones(1000, dtype=dtype, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = dropout(x, 0.25)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert out.dtype == dtype and torch.equal(out, gradient)
    torch.testing.assert_close(out.unique(), torch.tensor([0, 4 / 3], dtype=dtype))


# heads of 8 and 64 numbers beside as many weights: they are computed again for the gradient, and saved
@pytest.mark.parametrize(
    ("time", "window_size", "width"), [(9, None, 4), (70, 5, 8), (140, None, 4), (70, 5, 64)]
)
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_dropped_weights_are_those_of_the_definition(
    time: int, window_size: int | None, width: int, kv_heads: int
) -> None:
    """Values that are the rows of a unit matrix show the weights themselves."""
    q, k = draw(2, time, 2, width).requires_grad_(), draw(2, time, kv_heads, width)
    v = torch.eye(time, dtype=torch.float64)[None, :, None].expand(2, time, kv_heads, time)
    whole = window_attention(q, k, v, window_size=window_size, backend="reference").detach()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = window_attention(q, k, v, window_size=window_size, dropout=SHARE).detach()
    seen, kept = whole > 0, found > 0
    growth = keeps((1,), SHARE)[1]
    torch.testing.assert_close(found, torch.where(kept, growth * whole, 0), atol=1e-12, rtol=0)
    count = int(seen.sum())
    dropped = 1 - int(kept.sum()) / count
    assert dropped == pytest.approx(SHARE, abs=5 * (SHARE * (1 - SHARE) / count) ** 0.5)


@pytest.mark.parametrize(("time", "width"), [(5, 3), (70, 2), (66, 48)])
@pytest.mark.parametrize(("kv_heads", "before"), [(2, 0), (1, 0), (1, 3)])
def test_gradient_of_dropped_weights(time: int, width: int, kv_heads: int, before: int) -> None:
    """Against differences in a random direction, with the same weights dropped each time."""
    shapes = (1, time, 2, width), (1, before + time, kv_heads, width), (1, before + time, kv_heads, width)
    tensors = [draw(*shape).requires_grad_() for shape in shapes]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return window_attention(q, k, v, window_size=4, alibi_slopes=(0.5, 0.1), dropout=SHARE)

    assert torch.autograd.gradcheck(attend, tensors, fast_mode=True)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_what_attention_returns_can_be_changed(kv_heads: int) -> None:
    """As that of any other operator: it is no view that autograd would refuse to have changed in place."""
    q, k = draw(1, 6, 2, 4).requires_grad_(), draw(1, 6, kv_heads, 4)
    window_attention(q, k, k).mul_(2.0).sum().backward()
    assert q.grad is not None and window_attention(q, k, k).is_contiguous()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_cannot_be(share: float) -> None:
    q = draw(1, 4, 1, 16)
    with pytest.raises(ValueError, match=f"dropout is {share}; it must be at least 0 and below 1"):
        window_attention(q, q, q, dropout=share)


def test_no_kernel_drops() -> None:
    q = draw(1, 4, 1, 16).float()
    assert obstacle(q, q, None, 1.0, None) is None
    assert obstacle(q, q, None, 1.0, None, 0.5) == "dropout is 0.5; the kernels drop nothing"
