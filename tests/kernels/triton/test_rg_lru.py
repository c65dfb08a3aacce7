import pytest
import torch
from torch import Tensor

from recallfront.kernels.gpu.triton_scan import ScanPlan
from recallfront.kernels.rg_lru import triton as kernels
from recallfront.kernels.rg_lru.operator import rg_lru, rg_lru_step
from tests.kernels.triton.accuracy import check_operator, compare_with_reference, gradients
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("h", "last", "grad v", "grad weight", "grad bias", "grad p", "", "grad initial", "")
WALK, CHAIN = (kernels.WALK, kernels.WALK_BACK), (kernels.CHAIN, kernels.CHAIN_BACK)
both_cuts = pytest.mark.parametrize("cut", [WALK, CHAIN], ids=["walk", "chain"])


def draw(
    batch: int, time: int, blocks: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, ...]:
    """v, weight, bias, p, starts, initial_state, padding; decays from fast to hardly any."""
    generator = torch.Generator().manual_seed(batch + 10 * time + 100 * blocks + 1000 * size + seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    v, weight = normal(batch, time, blocks * size), normal(blocks, size, 2 * size) / size**0.5
    bias, p = normal(blocks, 2 * size), 4 * normal(blocks * size) - 4
    starts = torch.rand(batch, time, generator=generator) < 0.1
    padding = torch.rand(batch, time, generator=generator) < 0.1
    v, weight, bias = (x.to(dtype) for x in (v, weight, bias))
    return v, weight, bias, p, starts, normal(batch, blocks * size), padding


def run(*given: Tensor | None, backend: str = "triton") -> tuple[Tensor, Tensor]:
    v, weight, bias, p, starts, initial, padding = given
    assert v is not None and weight is not None and bias is not None and p is not None
    return rg_lru(
        v,
        weight,
        bias,
        p,
        starts=starts,
        initial_state=initial,
        padding=padding,
        backend=backend,  # type: ignore[arg-type]
    )


def reference(*given: Tensor | None) -> tuple[Tensor, Tensor]:
    return run(*given, backend="reference")


@both_cuts
@pytest.mark.parametrize(
    ("time", "blocks", "size"),
    [(1, 1, 1), (31, 1, 33), (48, 1, 32), (63, 3, 5), (64, 1, 40), (65, 2, 31), (100, 1, 7)],
)
def test_values_and_gradients(
    time: int,
    blocks: int,
    size: int,
    cut: tuple[ScanPlan, ScanPlan],
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "plan", lambda *sizes: cut)
    # the rates' gradient is a handful of numbers where there are few channels
    draws = max(1 + 15 // (time * size), 1 + 31 // (blocks * size))
    given, *more = (draw(2, time, blocks, size, seed=seed) for seed in range(draws))
    compare_with_reference(run, reference, given, device=device, names=NAMES, more=more)


@both_cuts
@pytest.mark.parametrize("flags", [(), ("starts",), ("initial",), ("padding",), ("shared starts", "initial")])
def test_flags(
    flags: tuple[str, ...],
    cut: tuple[ScanPlan, ScanPlan],
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "plan", lambda *sizes: cut)
    *parts, starts, initial, padding = draw(2, 70, 2, 9)
    given = (
        *parts,
        starts if "starts" in flags else starts[:1] if "shared starts" in flags else None,
        initial if "initial" in flags else None,
        padding if "padding" in flags else None,
    )
    compare_with_reference(run, reference, given, device=device, names=NAMES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types(dtype: torch.dtype, device: torch.device) -> None:
    compare_with_reference(run, reference, draw(2, 150, 2, 16, dtype), device=device, names=NAMES)


def test_hardly_any_decay_keeps_the_gradient_finite(device: torch.device) -> None:
    *parts, starts, _, _ = draw(1, 40, 1, 4)
    parts[3] = torch.full_like(parts[3], -40.0)  # a is 1 as far as float32 can tell
    compare_with_reference(run, reference, (*parts, starts, None, None), device=device, names=NAMES)


@pytest.mark.parametrize("form", ["auto", "reference"])
def test_the_forms_agree(form: str) -> None:
    given = [x.double() if x.is_floating_point() else x for x in draw(2, 20, 2, 3)]
    for flags in ([4], [4, 5], [4, 6], [4, 5, 6], []):
        chosen = [x if place < 4 or place in flags else None for place, x in enumerate(given)]
        weights = [torch.ones(2, 20, 6, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64)]
        found = gradients(lambda *x: run(*x, backend=form), chosen, weights)
        for have, right in zip(found, gradients(reference, chosen, weights), strict=True):
            assert (have is None) == (right is None)
            if have is not None and right is not None:
                torch.testing.assert_close(have, right, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps(dtype: torch.dtype, device: torch.device) -> None:
    v, weight, bias, p, starts, initial, _ = draw(5, 1, 2, 9, dtype)
    starts[::2] = True

    def step(v: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, p, starts, state = others
        return rg_lru_step(v[:, 0], weight, bias, p, state, starts=starts, backend="triton")

    def defined(v: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        h, last = reference(v, *others, None)
        return h[:, 0], last

    given = (v, weight, bias, p, starts, initial)
    compare_with_reference(step, defined, given, device=device, names=NAMES, backward=False)


def test_a_step_keeps_its_state_unless_told_otherwise(device: torch.device) -> None:
    v, weight, bias, p, starts, initial, _ = (x.to(device) for x in draw(3, 1, 1, 7))
    kept = initial.clone()
    given = (v[:, 0], weight, bias, p, initial)
    _, new = rg_lru_step(*given, starts=starts, backend="triton")
    assert torch.equal(initial, kept)
    _, same = rg_lru_step(*given, starts=starts, in_place=True, backend="triton")
    assert same is initial and torch.equal(same, new)


def test_nothing_to_do(device: torch.device) -> None:
    v, weight, bias, p, *_ = (x.to(device) for x in draw(1, 5, 1, 3))
    h, last = run(v[:0], weight, bias, p, None, None, None)
    assert (h.shape, last.shape) == ((0, 5, 3), (0, 3))


def launched(batch: int, time: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
    """gates, v, rate, initial_state, marks of a launch with one block."""
    v, _, _, p, starts, initial, _ = draw(batch, time, 1, size)
    gates = torch.randn(1, batch * time, 2 * size, generator=torch.Generator().manual_seed(0))
    rate = -8 * torch.nn.functional.softplus(p)
    return tuple(x.to(device) for x in (gates, v, rate, initial, starts.to(torch.uint8)))


def test_registered(device: torch.device) -> None:
    gates, v, rate, initial, marks = launched(1, 3, 5, device)
    wanting = [x.requires_grad_() for x in (gates, v, rate, initial)]
    check_operator(kernels.gated_scan, *wanting, marks)
    check_operator(kernels.gated_scan, *wanting[:3], None, None)
    check_operator(
        kernels.step, *(x.detach() for x in (gates[:, :1], v[:, 0], rate)), marks[:, :1] > 0, initial.detach()
    )


@only_interpreted
@both_cuts
def test_bytes(cut: tuple[ScanPlan, ScanPlan], device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "plan", lambda *sizes: cut)
    gates, v, rate, *_ = launched(1, 512, 32, device)
    gates, v = gates.bfloat16(), v.bfloat16()
    with traffic() as moved:
        h, last = kernels.gated_scan(gates, v, rate, None, None)
    assert moved.total <= 1.15 * sum(x.nbytes for x in (gates, v, rate, h, last))
    with traffic() as moved:
        grads = kernels.backward(gates, v, rate, None, None, h, h, last)
    assert moved.total <= 1.15 * sum(x.nbytes for x in (gates, v, rate, h, h, last, *grads))


@only_interpreted
def test_bytes_of_a_step(device: torch.device) -> None:
    gates, v, rate, initial, marks = launched(64, 1, 256, device)
    gates, v = gates.bfloat16(), v[:, 0].bfloat16()
    with traffic() as moved:
        h = kernels.step(gates, v, rate, marks > 0, initial)
    # rate is read for each row of the batch; from the cache, all but once
    cached = 63 * rate.nbytes
    assert moved.total - cached <= 1.15 * (
        gates.nbytes + v.nbytes + rate.nbytes + h.nbytes + 2 * initial.nbytes
    )


@only_interpreted
def test_more_than_2_to_the_31_elements(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "plan", lambda *sizes: WALK)
    batch, time, size = 2**20 + 1, 64, 32
    gates, v, rate, *_ = launched(1, time, size, device)
    gates, v = gates.bfloat16(), v.bfloat16()
    expected, leaving = kernels.gated_scan(gates, v, rate, None, None)
    right = kernels.backward(gates, v, rate, None, None, expected, v, leaving)
    with unpoisoned(), only_programs((batch - 1, 0, 0)):
        many = torch.empty(1, batch * time, 2 * size, dtype=torch.bfloat16)
        many[:, -time:] = gates
        wide = v.expand(batch, time, size)
        h, last = kernels.gated_scan(many, wide, rate, None, None)
        monkeypatch.setattr(Tensor, "sum", lambda x, dim: x[-1])  # over 2^20 rows, all but one never written
        grads = kernels.backward(many, wide, rate, None, None, h, wide, leaving.expand(batch, size))
    assert torch.equal(h[-1], expected[0]) and torch.equal(last[-1], leaving[0])
    assert torch.equal(grads[0][:, -time:], right[0])
    assert torch.equal(grads[1][-1], right[1][0])
    assert torch.equal(grads[2], right[2])
