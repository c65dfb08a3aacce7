"""The generalized delta rule, and its chunks' products, which all vector decays share."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.decayed_products import decayed_products
from recallfront.kernels.generalized_delta_rule.operator import (
    generalized_delta_rule,
    generalized_delta_rule_step,
)
from tests.kernels.golden import difference

LENGTHS = [1, 2, 15, 32, 33, 64, 65, 150]
NAMES = ("q", "k", "v", "a", "b", "log_decay")


def draw(time: int, strength: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, kappa = torch.randn(3, 2, time, 2, 3, generator=generator, dtype=torch.float64).unbind(0)
    rate, decay = torch.rand(2, 2, time, 2, 3, generator=generator, dtype=torch.float64).unbind(0)
    kappa = F.normalize(kappa, dim=-1)
    return {
        "q": q,
        "k": k,
        "v": torch.randn(2, time, 2, 4, generator=generator, dtype=torch.float64),
        "a": -kappa,
        "b": rate * kappa,
        "log_decay": -strength * decay,
        "state": torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64),
    }


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("strength", [0.0, 0.6, 30.0])
def test_whole_and_steps_equal_the_definition(time: int, strength: float) -> None:
    x = draw(time, strength)
    arguments = [x[name] for name in NAMES]
    expected, last = generalized_delta_rule(*arguments, initial_state=x["state"], backend="reference")
    found, found_last = generalized_delta_rule(*arguments, initial_state=x["state"])
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(found_last, last, atol=1e-11, rtol=1e-11)
    state = x["state"].clone()
    for step in range(time):
        q, k, v, a, b, g = (part[:, step] for part in arguments)
        o, state = generalized_delta_rule_step(q, k, v, a, b, g, state)
        torch.testing.assert_close(o, expected[:, step], atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(state, last, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("time", "strength"), [(5, 0.6), (40, 0.6), (70, 5.0)])
def test_gradients(time: int, strength: float) -> None:
    x = draw(time, strength)
    inputs = [x[name].requires_grad_() for name in (*NAMES, "state")]

    def run(*parts: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, a, b, g, state = parts
        return generalized_delta_rule(q, k, v, a, b, g, initial_state=state)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_a_strong_decay_takes_no_digits_from_the_mild_ones_after_it() -> None:
    """A sum of log decays up to -1e6 has a last digit of 0.06: a difference of two would be wrong by that."""
    x = draw(100, 0.1)
    x["log_decay"][:, ::9] = -1e6
    single = [x[name].float().requires_grad_() for name in NAMES]
    double = [part.detach().double().requires_grad_() for part in single]
    found, _ = generalized_delta_rule(*single)
    expected, _ = generalized_delta_rule(*double, backend="reference")
    assert difference(found, expected.detach()) < 2e-6
    slopes = torch.autograd.grad(found.square().sum(), single)
    for slope, exact in zip(slopes, torch.autograd.grad(expected.square().sum(), double), strict=True):
        assert difference(slope, exact) < 2e-5


def test_products_of_a_chunk_are_those_of_their_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    readers = torch.randn(2, 8, 3, 5, generator=generator, dtype=torch.float64)
    writers = torch.randn(2, 8, 2, 5, generator=generator, dtype=torch.float64)
    log_decay = -torch.rand(2, 8, 5, generator=generator, dtype=torch.float64)
    products, since, until = decayed_products(readers, writers, log_decay)
    total = log_decay.cumsum(1)
    decay = (total[:, :, None] - total[:, None]).exp()
    expected = torch.einsum("nird,njwd,nijd->nirjw", readers, writers, decay)
    future = torch.ones(8, 8, dtype=torch.bool).triu(1)[:, None, :, None]
    torch.testing.assert_close(products, expected.masked_fill(future, 0))
    torch.testing.assert_close(since, total)
    torch.testing.assert_close(until, total[:, -1:] - total)


def test_bad_arguments() -> None:
    x = draw(4)
    for name in ("a", "b", "log_decay"):
        wrong = {**x, name: x[name][..., :2]}
        with pytest.raises(ValueError, match=rf"generalized_delta_rule: {name} has shape \(2, 4, 2, 2\)"):
            generalized_delta_rule(*(wrong[key] for key in NAMES))
    with pytest.raises(ValueError, match="no Triton kernel yet"):
        generalized_delta_rule(*(x[key] for key in NAMES), backend="triton")


def test_half_precision_accumulates_in_float32() -> None:
    x = {name: value.bfloat16() for name, value in draw(40).items()}
    out, state = generalized_delta_rule(*(x[name] for name in NAMES))
    assert out.dtype == torch.bfloat16 and state.dtype == torch.float32
