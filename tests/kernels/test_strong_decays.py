"""Decays that forget everything: a gate in log space may be saturated, minus infinity included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.gated_delta_rule.operator import gated_delta_rule, gated_delta_rule_step
from recallfront.kernels.gated_linear_attention.operator import (
    gated_linear_attention,
    gated_linear_attention_step,
)
from recallfront.kernels.generalized_delta_rule.operator import (
    generalized_delta_rule,
    generalized_delta_rule_step,
)
from recallfront.kernels.rg_lru.operator import rg_lru
from tests.kernels.triton.interpreter import interpreted

TIME = 70  # past a chunk
# operator, its form for one token, dimensions of the other inputs, whether the decay is one a key dimension
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], str, bool]] = {
    "linear attention, a head": (gated_linear_attention, gated_linear_attention_step, "qkv", False),
    "linear attention, a key": (gated_linear_attention, gated_linear_attention_step, "qkv", True),
    "delta rule, a head": (gated_delta_rule, gated_delta_rule_step, "qkvb", False),
    "delta rule, a key": (gated_delta_rule, gated_delta_rule_step, "qkvb", True),
    "generalized delta rule": (generalized_delta_rule, generalized_delta_rule_step, "qkvac", True),
}


def draw(inputs: str, by_key: bool, dtype: torch.dtype) -> list[Tensor]:
    """The inputs, then the log decay: a fifth of it strong, whole tokens too, the first and the last among them."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, TIME, 2, 3)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    unit = torch.nn.functional.normalize(normal(*shape), dim=-1)
    drawn = {"q": normal(*shape), "k": unit, "v": normal(*shape), "b": normal(*shape[:3]).sigmoid()}
    drawn |= {"a": -unit, "c": 0.5 * unit}
    size = shape if by_key else shape[:3]
    log_decay = -torch.rand(size, generator=generator, dtype=torch.float64)
    chance = torch.rand(size, generator=generator)
    for bound, strong in ((0.2, -2000.0), (0.1, -1e30), (0.05, -torch.inf)):
        log_decay[chance < bound] = strong
    log_decay[:, [0, 20, 21, TIME - 1]] = -torch.inf
    return [x.to(dtype).requires_grad_() for x in (*(drawn[name] for name in inputs), log_decay)]


def results(operator: Callable[..., Any], given: list[Tensor], backend: Backend) -> list[Tensor]:
    """Output, last state, and all gradients."""
    state = torch.ones(2, 2, 3, 3, dtype=given[0].dtype, requires_grad=True)
    found = operator(*given, initial_state=state, backend=backend)
    loss = torch.stack([x.cos().sum() for x in found]).sum()
    return [*found, *torch.autograd.grad(loss, [*given, state])]


# sums of 64 log decays of -746 (-104), each rounded to half a unit of 2^-53 (2^-24), and what a gradient makes of that
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 2e-11), (torch.float32, 1e-3)])
@pytest.mark.parametrize("name", CASES)
def test_equal_the_definition(name: str, dtype: torch.dtype, bound: float) -> None:
    operator, step, inputs, by_key = CASES[name]
    given = draw(inputs, by_key, dtype)
    expected = results(operator, given, "reference")
    assert all(x.isfinite().all() for x in expected)
    for found, right in zip(results(operator, given, "auto"), expected, strict=True):
        torch.testing.assert_close(found, right, atol=bound, rtol=bound)
    state = torch.ones(2, 2, 3, 3, dtype=dtype)
    with torch.no_grad():
        for time in range(25):
            o, state = step(*(x[:, time] for x in given), state)
            torch.testing.assert_close(o, expected[0][:, time], atol=bound, rtol=bound)


@pytest.mark.parametrize("backend", ["reference", "auto", "triton"])
def test_an_infinite_rate_of_the_rg_lru(backend: Backend) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 9, 4), (2, 2, 4), (2, 4), (4,)
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    with torch.no_grad():
        given[3][1] = torch.inf
    with interpreted():
        h, last = rg_lru(*given, backend=backend)
        gradients = torch.autograd.grad(h.sum() + last.sum(), given)
    assert all(x.isfinite().all() for x in (h, *gradients))


@pytest.mark.parametrize("strong", [-20.0, -80.0, -1000.0])
@pytest.mark.parametrize("name", ["linear attention, a head", "delta rule, a head"])
def test_strong_decays_take_no_digits_from_mild_ones(name: str, strong: float) -> None:
    """float32 against the loop in float64, half of the decays strong: a rounding for each token that is summed."""
    operator, _, inputs, by_key = CASES[name]
    given = draw(inputs, by_key, torch.float32)
    generator = torch.Generator().manual_seed(1)
    log_decay = -torch.rand(given[-1].shape, generator=generator)
    log_decay[torch.rand(log_decay.shape, generator=generator) < 0.5] = strong
    given[-1] = log_decay.requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = results(operator, exact, "reference")
    for found, right in zip(results(operator, given, "auto"), expected, strict=True):
        error = (found - right).detach().abs().max() / right.detach().abs().max().clamp(min=1)
        assert float(error) < TIME * 2**-24
