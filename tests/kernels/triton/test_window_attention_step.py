from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recallfront.kernels.window_attention import triton as kernels
from recallfront.kernels.window_attention.operator import alibi_slopes, step_bias, window_attention_step
from tests.kernels.triton.accuracy import compare_with_reference
from tests.kernels.triton.interpreter import traffic

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("kv_heads", "width", "dtype"), [(4, 20, F32), (2, 16, F32), (1, 64, BF16), (4, 9, F16)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_steps(kv_heads: int, width: int, dtype: torch.dtype, biased: bool, device: torch.device) -> None:
    slopes = alibi_slopes(4)

    def step(backend: str, there: torch.device) -> Callable[..., tuple[Tensor, ...]]:
        def run(*given: Tensor) -> tuple[Tensor, ...]:
            q, k, v, keys, values = (x.clone() for x in given)
            lengths = torch.tensor([0, 64, 200], device=there)
            bias = step_bias(lengths, 65, q.dtype, alibi_slopes=slopes) if biased else None
            o = window_attention_step(
                q,
                k,
                v,
                keys,
                values,
                lengths,
                bias=bias,
                alibi_slopes=slopes,
                backend=backend,  # type: ignore[arg-type]
            )
            return o, keys, values

        return run

    generator = torch.Generator().manual_seed(0)
    sizes = ((4,), (kv_heads,), (kv_heads,), (kv_heads, 65), (kv_heads, 65))
    given = [torch.randn(3, *size, width, generator=generator).to(dtype) for size in sizes]
    compare_with_reference(
        step("triton", device), step("reference", torch.device("cpu")), given, device=device, backward=False
    )


@pytest.mark.parametrize(("kv_heads", "dtype"), [(2, F32), (1, BF16)])
def test_steps_that_share_a_ring(
    kv_heads: int, dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "splits", lambda programs, slots, group: (3, 128))

    def step(backend: str, there: torch.device) -> Callable[..., tuple[Tensor, ...]]:
        def run(*given: Tensor) -> tuple[Tensor, ...]:
            q, k, v, keys, values = (x.clone() for x in given)
            lengths = torch.tensor([3, 299], device=there)
            o = window_attention_step(q, k, v, keys, values, lengths, scale=0.3, backend=backend)  # type: ignore[arg-type]
            return o, keys, values

        return run

    generator = torch.Generator().manual_seed(0)
    sizes = ((2,), (kv_heads,), (kv_heads,), (kv_heads, 300), (kv_heads, 300))
    given = [torch.randn(2, *size, 16, generator=generator).to(dtype) for size in sizes]
    compare_with_reference(
        step("triton", device), step("reference", torch.device("cpu")), given, device=device, backward=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
@pytest.mark.parametrize(("kv_heads", "slots"), [(8, 1024), (8, 100), (1, 4096)])
def test_a_step_moves_little_more_than_it_must(kv_heads: int, slots: int) -> None:
    shapes = ((8,), (kv_heads,), (kv_heads,), (kv_heads, slots), (kv_heads, slots))
    q, k, v, keys, values = (torch.ones(2, *shape, 64, dtype=BF16) for shape in shapes)
    lengths = torch.tensor([slots - 1, slots - 1])
    with traffic() as moved, torch.no_grad():
        o = window_attention_step(
            q, k, v, keys, values, lengths, alibi_slopes=alibi_slopes(8), backend="triton"
        )
    assert bool(o.isfinite().all())
    # the ring but for the new token's slot, which is written; q and o, k and v
    least = 2 * (2 * q.numel() + 2 * k.numel() + 2 * keys.numel())
    assert moved.total <= 1.15 * least, moved.total / least
