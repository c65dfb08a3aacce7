"""Gated linear attention and the gated delta rule."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.gated_delta_rule.operator import gated_delta_rule, gated_delta_rule_step
from recallfront.kernels.gated_linear_attention.operator import (
    gated_linear_attention,
    gated_linear_attention_step,
)
from tests.kernels.golden import GRADIENTS, VALUES, difference, load_golden

LENGTHS = [1, 15, 16, 17, 63, 64, 65, 150]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "name", ["gated_linear_attention_scalar", "gated_linear_attention_vector", "gated_delta_rule"]
)
def test_golden(name: str, backend: Backend) -> None:
    golden = load_golden(name)
    names = ["q", "k", "v", "log_decay", "initial_state"]
    if name == "gated_delta_rule":
        names.insert(3, "beta")
    inputs = [golden[key].requires_grad_() for key in names]
    run = gated_delta_rule if name == "gated_delta_rule" else gated_linear_attention
    out, state = run(*inputs[:-1], scale=float(golden["scale"]), initial_state=inputs[-1], backend=backend)
    assert difference(out, golden["out"]) < VALUES
    assert difference(state, golden["final_state"]) < VALUES
    gradients = torch.autograd.grad([out, state], inputs, [golden["grad_out"], golden["grad_final_state"]])
    for key, gradient in zip(names, gradients, strict=True):
        assert difference(gradient, golden[f"grad_{key}"]) < GRADIENTS


def draw(time: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, time, 2, 3, dtype=torch.float64).unbind(0)
    return {
        "q": q,
        "k": F.normalize(k, dim=-1),
        "v": torch.randn(2, time, 2, 4, dtype=torch.float64),
        "beta": torch.rand(2, time, 2, dtype=torch.float64),
        "head": -torch.rand(2, time, 2, dtype=torch.float64),
        "vector": -torch.rand(2, time, 2, 3, dtype=torch.float64),
        "state": torch.randn(2, 2, 3, 4, dtype=torch.float64),
    }


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("decay", ["head", "vector"])
def test_linear_attention_whole_and_steps_equal_the_definition(
    time: int, decay: str, strength: float
) -> None:
    x = draw(time)
    arguments = (x["q"], x["k"], x["v"], strength * x[decay])
    expected, last = gated_linear_attention(*arguments, initial_state=x["state"], backend="reference")
    found, found_last = gated_linear_attention(*arguments, initial_state=x["state"])
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(found_last, last, atol=1e-11, rtol=1e-11)
    state = x["state"].clone()
    for step in range(time):
        q, k, v, g = (a[:, step] for a in arguments)
        o, state = gated_linear_attention_step(q, k, v, g, state)
        torch.testing.assert_close(o, expected[:, step], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize(
    ("decays", "strength"), [(None, 0.0), ("head", 1.0), ("vector", 0.1), ("vector", 1.0), ("vector", 30.0)]
)
def test_delta_rule_whole_and_steps_equal_the_definition(
    time: int, decays: str | None, strength: float
) -> None:
    x = draw(time)
    arguments = (x["q"], x["k"], x["v"], x["beta"])
    decay = None if decays is None else strength * x[decays]
    expected, last = gated_delta_rule(*arguments, decay, initial_state=x["state"], backend="reference")
    found, found_last = gated_delta_rule(*arguments, decay, initial_state=x["state"])
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(found_last, last, atol=1e-11, rtol=1e-11)
    state = x["state"].clone()
    for step in range(time):
        q, k, v, beta = (a[:, step] for a in arguments)
        o, state = gated_delta_rule_step(q, k, v, beta, None if decay is None else decay[:, step], state)
        torch.testing.assert_close(o, expected[:, step], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("decay", ["head", "vector"])
@pytest.mark.parametrize(("time", "strength"), [(5, 1.0), (70, 0.1), (70, 1.0)])
def test_linear_attention_gradients(decay: str, time: int, strength: float) -> None:
    x = draw(time)
    x[decay] *= strength
    inputs = [x[name].requires_grad_() for name in ("q", "k", "v", decay, "state")]

    def run(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return gated_linear_attention(q, k, v, g, initial_state=state)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("decay", ["head", "vector"])
@pytest.mark.parametrize("time", [5, 70])
def test_delta_rule_gradients(time: int, decay: str) -> None:
    x = draw(time)
    inputs = [x[name].requires_grad_() for name in ("q", "k", "v", "beta", decay, "state")]

    def run(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return gated_delta_rule(q, k, v, beta, g, initial_state=s)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("decay", ["head", "vector"])
def test_strong_decays_stay_finite(decay: str) -> None:
    x = draw(100)
    g = (x[decay] * 1000).float().requires_grad_()
    out, _ = gated_linear_attention(x["q"].float(), x["k"].float(), x["v"].float(), g)
    (gradient,) = torch.autograd.grad(out.sum(), g)
    assert out.isfinite().all() and gradient.isfinite().all()
    out, _ = gated_delta_rule(x["q"].float(), x["k"].float(), x["v"].float(), x["beta"].float(), g)
    (gradient,) = torch.autograd.grad(out.sum(), g)
    assert out.isfinite().all() and gradient.isfinite().all()


def test_bad_arguments() -> None:
    x = draw(4)
    with pytest.raises(ValueError, match="log_decay has shape"):
        gated_linear_attention(x["q"], x["k"], x["v"], x["head"][:, :3])
    with pytest.raises(ValueError, match="initial_state has shape"):
        gated_linear_attention(x["q"], x["k"], x["v"], x["head"], initial_state=x["state"][:1])
    with pytest.raises(ValueError, match="log_decay has shape"):
        gated_delta_rule(x["q"], x["k"], x["v"], x["beta"], x["vector"][..., :2])
    with pytest.raises(ValueError, match="beta has shape"):
        gated_delta_rule(x["q"], x["k"], x["v"], x["beta"][:1])
    with pytest.raises(ValueError, match="no Triton kernel yet"):
        gated_delta_rule(x["q"], x["k"], x["v"], x["beta"], backend="triton")


def test_what_the_delta_rule_gives_may_be_changed_in_place() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 40, 3, 4, generator=generator, requires_grad=True) for _ in range(3))
    beta = torch.rand(2, 40, 3, generator=generator)
    out, state = gated_delta_rule(q, k, v, beta)
    plain = torch.autograd.grad(2 * out.sum() + 3 * state.sum(), (q, k, v))
    out, state = gated_delta_rule(q, k, v, beta)
    changed = torch.autograd.grad(out.mul_(2).sum() + state.mul_(3).sum(), (q, k, v))
    assert all(torch.allclose(a, b) for a, b in zip(plain, changed, strict=True))
