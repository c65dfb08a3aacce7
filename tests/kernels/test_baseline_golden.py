"""KDA, RWKV-7 and HGRN2 against arrays made from their papers' equations, a token at a time (golden/README.md)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.gated_delta_rule.operator import gated_delta_rule
from recallfront.kernels.gated_linear_attention.operator import gated_linear_attention
from recallfront.kernels.generalized_delta_rule.operator import generalized_delta_rule
from tests.golden import make_baselines
from tests.kernels.golden import GRADIENTS, VALUES, difference, load_golden

INPUTS = {
    "kda": ("q", "k", "v", "beta", "log_decay", "initial_state"),
    "rwkv7": ("q", "k", "v", "kappa", "rate", "log_decay", "initial_state"),
    "hgrn2": ("q", "v", "logits", "bound", "initial_state"),
}
Result = tuple[Tensor, Tensor]


def kda(x: dict[str, Tensor], backend: Backend) -> Result:
    return gated_delta_rule(
        x["q"],
        x["k"],
        x["v"],
        x["beta"],
        x["log_decay"],
        scale=1.0,
        initial_state=x["initial_state"],
        backend=backend,
    )


def rwkv7(x: dict[str, Tensor], backend: Backend) -> Result:
    a, b = -x["kappa"], x["rate"] * x["kappa"]
    return generalized_delta_rule(
        x["q"],
        x["k"],
        x["v"],
        a,
        b,
        x["log_decay"],
        scale=1.0,
        initial_state=x["initial_state"],
        backend=backend,
    )


def hgrn2(x: dict[str, Tensor], backend: Backend) -> Result:
    bound = x["bound"][:, None]
    k = (1 - bound) * torch.sigmoid(-x["logits"])
    forget = bound + (1 - bound) * torch.sigmoid(x["logits"])
    return gated_linear_attention(
        x["q"], k, x["v"], forget.log(), scale=1.0, initial_state=x["initial_state"], backend=backend
    )


RUNS: dict[str, Callable[[dict[str, Tensor], Backend], Result]] = {"kda": kda, "rwkv7": rwkv7, "hgrn2": hgrn2}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", RUNS)
def test_operator_equals_the_papers_equations(name: str, dtype: torch.dtype, backend: Backend) -> None:
    exact = load_golden(name)
    golden = {key: value.to(dtype) for key, value in exact.items()}
    inputs = {key: golden[key].requires_grad_() for key in INPUTS[name]}
    out, state = RUNS[name](inputs, backend)
    single = dtype == torch.float32
    values, slopes = (VALUES, GRADIENTS) if single else (1e-10, 1e-10)
    assert difference(out, exact["out"]) < values
    assert difference(state, exact["final_state"]) < values
    gradients = torch.autograd.grad(
        [out, state], list(inputs.values()), [golden["grad_out"], golden["grad_final_state"]]
    )
    for key, gradient in zip(inputs, gradients, strict=True):
        assert difference(gradient, exact[f"grad_{key}"]) < slopes, key


@pytest.mark.parametrize("name", RUNS)
def test_arrays_are_those_that_the_script_makes(name: str) -> None:
    """One head's output, of inputs drawn again; the gradients take the script 20 seconds."""
    golden = load_golden(name)
    inputs = make_baselines.draw(name)
    for key, value in inputs.items():
        # numpy's exp and log are other code on other processors, each within 4 units in the last place; log(1e-6) is
        # -13.8, and exp makes its absolute error a relative one: 4 * 13.8 + 4 < 64
        ulp = torch.finfo(torch.float64).eps
        torch.testing.assert_close(torch.from_numpy(value), golden[key], rtol=64 * ulp, atol=0)
    out, state = getattr(make_baselines, name)({k: make_baselines.lane(x, 1, 2) for k, x in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(out), golden["out"][1, :, 2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.from_numpy(state), golden["final_state"][1, 2], rtol=1e-12, atol=1e-12)
