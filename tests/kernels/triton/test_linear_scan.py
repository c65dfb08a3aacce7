import pytest
import torch
from torch import Tensor

from recallfront.kernels.gpu.triton_scan import ScanPlan
from recallfront.kernels.linear_scan import triton as kernels
from recallfront.kernels.linear_scan.operator import linear_scan, linear_scan_step
from tests.kernels.triton.accuracy import check_operator, compare_with_reference, gradients
from tests.kernels.triton.interpreter import only_programs, traffic
from tests.kernels.triton.poison import unpoisoned

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")
NAMES = ("h", "last", "grad a", "grad b", "grad initial", "grad reset")


def draw(
    batch: int, time: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + 10 * time + 100 * width + seed)
    a = torch.rand(batch, time, width, generator=generator).to(dtype)
    b = torch.randn(batch, time, width, generator=generator).to(dtype)
    initial = torch.randn(batch, width, generator=generator)
    return a, b, initial, torch.rand(batch, time, generator=generator) < 0.1


def run(a: Tensor, b: Tensor, initial: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    return linear_scan(a, b, initial_state=initial, reset=reset, backend="triton")


def reference(a: Tensor, b: Tensor, initial: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    return linear_scan(a, b, initial_state=initial, reset=reset, backend="reference")


@pytest.mark.parametrize("cut", [kernels.WALK, kernels.CHAIN], ids=["walk", "chain"])
@pytest.mark.parametrize(
    ("time", "width"), [(1, 1), (31, 33), (32, 32), (33, 31), (48, 5), (63, 7), (64, 40), (65, 1), (100, 7)]
)
def test_values_and_gradients(
    time: int, width: int, cut: ScanPlan, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "plan", lambda *sizes: cut)
    given, *more = (draw(2, time, width, seed=seed) for seed in range(1 + 15 // (time * width)))
    compare_with_reference(run, reference, given, device=device, names=NAMES, more=more)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time", [65, 150])
def test_narrow_types(time: int, dtype: torch.dtype, device: torch.device) -> None:
    a, b, *_ = draw(2, time, 33, dtype)
    compare_with_reference(run, reference, (a, b, None, None), device=device, names=NAMES)


@pytest.mark.parametrize("cut", [kernels.WALK, kernels.CHAIN], ids=["walk", "chain"])
def test_without_state_and_reset(
    cut: ScanPlan, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "plan", lambda *sizes: cut)
    a, b, *_ = draw(3, 70, 10)
    compare_with_reference(run, reference, (a, b, None, None), device=device, names=NAMES)


def test_inputs_need_not_lie_together(device: torch.device) -> None:
    a, b, initial, reset = draw(2, 70, 20)
    loose = (a.transpose(1, 2).contiguous().transpose(1, 2), b.repeat(1, 2, 2)[:, ::2, :20], initial)
    assert not any(x.is_contiguous() for x in loose[:2])
    compare_with_reference(run, reference, (*loose, reset.T.contiguous().T), device=device, names=NAMES)


def test_nothing_to_do(device: torch.device) -> None:
    a = torch.ones(0, 5, 3, device=device)
    h, last = run(a, a, None, None)
    assert (h.shape, last.shape) == ((0, 5, 3), (0, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps(dtype: torch.dtype, device: torch.device) -> None:
    a, b, initial, _ = draw(3, 1, 300, dtype)

    def step(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return linear_scan_step(a[:, 0], b[:, 0], state, backend="triton")

    def defined(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, last = reference(a, b, state, None)
        return h[:, 0], last

    compare_with_reference(step, defined, (a, b, initial), device=device, names=NAMES, backward=False)


def test_a_step_keeps_its_state_unless_told_otherwise(device: torch.device) -> None:
    a, b, initial, _ = (x.to(device) for x in draw(3, 1, 7))
    kept = initial.clone()
    _, new = linear_scan_step(a[:, 0], b[:, 0], initial, backend="triton")
    assert torch.equal(initial, kept)
    _, same = linear_scan_step(a[:, 0], b[:, 0], initial, in_place=True, backend="triton")
    assert same is initial and torch.equal(same, new)


def test_registered(device: torch.device) -> None:
    a, b, initial, reset = (x.to(device) for x in draw(1, 3, 5))
    check_operator(kernels.scan, a.requires_grad_(), b.requires_grad_(), initial.requires_grad_(), reset)
    check_operator(kernels.scan, a, b, None, None)
    check_operator(kernels.step, a[:, 0].detach(), b[:, 0].detach(), initial.detach())


def test_compile_sees_one_operator(device: torch.device) -> None:
    seen: list[str] = []

    def look(module: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return module

    a, b, initial, reset = (x.to(device) for x in draw(1, 3, 5))
    found = torch.compile(run, backend=look, fullgraph=True)(a, b, initial, reset)
    assert torch.equal(found[0], run(a, b, initial, reset)[0])
    assert "recallfront.linear_scan.default" in seen


@only_interpreted
@pytest.mark.parametrize("cut", [kernels.WALK, kernels.CHAIN], ids=["walk", "chain"])
def test_bytes(cut: ScanPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "plan", lambda *sizes: cut)
    a, b, *_ = draw(1, 2048, 32, torch.bfloat16)
    with traffic() as moved:
        h, last = kernels.scan(a, b, None, None)
    assert moved.total <= 1.15 * sum(x.nbytes for x in (a, b, h, last))
    with traffic() as moved:
        grads = kernels.backward(a, h, None, None, h, last)
    assert moved.total <= 1.15 * sum(x.nbytes for x in (a, h, h, last, *grads))


@only_interpreted
def test_bytes_of_a_step() -> None:
    a, b, initial, _ = draw(2, 1, 2048, torch.bfloat16)
    with traffic() as moved:
        h = kernels.step(a[:, 0], b[:, 0], initial)
    assert moved.total <= 1.15 * (a.nbytes + b.nbytes + h.nbytes + 2 * initial.nbytes)


@only_interpreted
def test_more_than_2_to_the_31_elements() -> None:
    batch, time, width = 2**20 + 1, 64, 32
    a, b, *_ = draw(1, time, width, torch.bfloat16)
    weights = torch.randn(1, time, width, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = gradients(reference, (a, b, None, None), (weights, torch.zeros(1, width)))
    wide = [x.expand(batch, time, width) for x in (a, b, weights)]
    with unpoisoned(), only_programs((batch - 1, 0, 0)):
        h, last = kernels.scan(wide[0], wide[1], None, None)
        grads = kernels.backward(wide[0], h, None, None, wide[2], last.new_zeros(()).expand(batch, width))
    for found, right in zip((h, last, *grads[:2]), expected[:4], strict=True):
        assert right is not None
        torch.testing.assert_close(found[-1], right[0])


@only_interpreted
def test_a_step_of_more_than_2_to_the_31_elements() -> None:
    batch, width = 2**26 + 1, 32
    a, b, *_ = draw(1, 1, width)
    with unpoisoned(), only_programs((batch * width // 256, 0, 0)):
        state = torch.empty(batch, width)
        state[-1] = 2.0
        h = kernels.step(a[:, 0].expand(batch, width), b[:, 0].expand(batch, width), state)
    assert torch.equal(h[-1], state[-1])
    torch.testing.assert_close(h[-1], 2 * a[0, 0] + b[0, 0])


@only_interpreted
def test_a_chain_of_more_than_2_to_the_31_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, long, width = 2**21, kernels.CHAIN.time, 32
    a, b, *_ = draw(1, 1, width)

    def resumed(*sizes: object) -> tuple[Tensor, Tensor, int]:
        """The chain as it is before its last program, which finds the state 2.5."""
        words = torch.zeros(tiles * width, dtype=torch.int64)
        words[-2 * width : -width] = (int(torch.tensor(2.5).view(torch.int32)) << 32) | 1
        return words, torch.tensor([tiles - 1]), tiles

    monkeypatch.setattr(kernels, "chain_of", resumed)
    monkeypatch.setattr(kernels, "plan", lambda *sizes: kernels.CHAIN)
    wide = a.expand(1, tiles * long, width), b.expand(1, tiles * long, width)
    expected, _ = reference(wide[0][:, :long], wide[1][:, :long], torch.full((1, width), 2.5), None)
    with unpoisoned(), only_programs((tiles - 1, 0, 0)):
        h, last = kernels.scan(*wide, None, None)
    torch.testing.assert_close(h[:, -long:], expected)
    torch.testing.assert_close(last, expected[:, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(2, 4, 3)}, "a has shape"),
        (
            {"a": torch.ones(2, 5, 3, dtype=torch.float64), "b": torch.ones(2, 5, 3, dtype=torch.float64)},
            "float64; the",
        ),
    ],
)
def test_what_no_kernel_covers(change: dict[str, Tensor], message: str, device: torch.device) -> None:
    given = {"a": torch.ones(2, 5, 3), "b": torch.ones(2, 5, 3)} | change
    with pytest.raises(ValueError, match=message):
        linear_scan(**{name: x.to(device) for name, x in given.items()}, backend="triton")
