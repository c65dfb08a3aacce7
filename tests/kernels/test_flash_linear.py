"""The extra's calls, against a stand-in with its signatures; on a GPU, against the extra itself."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from recallfront.kernels.gated_delta_rule.operator import gated_delta_rule
from recallfront.kernels.gated_linear_attention.operator import gated_linear_attention
from recallfront.kernels.generalized_delta_rule.operator import generalized_delta_rule
from recallfront.kernels.gpu import flash_linear


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    for name in ("fla", "fla.ops", module):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, function in functions.items():
        setattr(sys.modules[module], name, function)


def arguments(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 70, 2, 3, dtype=dtype).unbind(0)
    return {
        "q": q,
        "k": torch.nn.functional.normalize(k, dim=-1),
        "v": torch.randn(1, 70, 2, 4, dtype=dtype),
        "g": -torch.rand(1, 70, 2, dtype=dtype),
        "beta": torch.rand(1, 70, 2, dtype=dtype),
        "state": torch.zeros(1, 2, 3, 4, dtype=dtype),
    }


def test_it_is_for_half_precision_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_linear, "_installed", lambda: True)
    assert not flash_linear.covers(arguments()["q"], "auto")


@pytest.mark.parametrize("by_head", [True, False])
def test_gated_linear_attention_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch, by_head: bool) -> None:
    def chunk(
        q: Any, k: Any, v: Any, *, g: Any, scale: Any, initial_state: Any, output_final_state: bool
    ) -> Any:
        assert output_final_state and g.is_contiguous() and g.ndim == (3 if by_head else 4)
        assert initial_state.dtype == g.dtype == torch.float32
        return gated_linear_attention(
            q.float(), k.float(), v.float(), g, scale=scale, initial_state=initial_state
        )

    stand_in(monkeypatch, "fla.ops.simple_gla", chunk_simple_gla=chunk)
    stand_in(monkeypatch, "fla.ops.gla", chunk_gla=chunk)
    x = arguments()
    g = (
        x["g"][..., None]
        if by_head
        else x["g"][..., None].expand(-1, -1, -1, 3) * torch.tensor([1.0, 2.0, 3.0])
    )
    found, last = flash_linear.gated_linear(x["q"], x["k"], x["v"], g, 0.5, x["state"])
    expected, expected_last = gated_linear_attention(
        x["q"], x["k"], x["v"], g[..., 0] if by_head else g, scale=0.5, initial_state=x["state"]
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last.double(), expected_last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gated", [True, False])
def test_the_delta_rule_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch, gated: bool) -> None:
    def chunk(
        q: Any, k: Any, v: Any, *, beta: Any, scale: Any, initial_state: Any, output_final_state: bool
    ) -> Any:
        assert output_final_state and beta.dtype == q.dtype and initial_state.dtype == torch.float32
        return gated_delta_rule(q, k, v, beta, scale=scale, initial_state=initial_state)

    def gated_chunk(q: Any, k: Any, v: Any, *, g: Any, **keywords: Any) -> Any:
        beta, state, scale = keywords["beta"], keywords["initial_state"], keywords["scale"]
        return gated_delta_rule(q, k, v, beta, g.to(q.dtype), scale=scale, initial_state=state)

    stand_in(monkeypatch, "fla.ops.delta_rule", chunk_delta_rule=chunk)
    stand_in(monkeypatch, "fla.ops.gated_delta_rule", chunk_gated_delta_rule=gated_chunk)
    x = arguments()
    decay = x["g"] if gated else None
    found, _ = flash_linear.gated_delta(x["q"], x["k"], x["v"], x["beta"], decay, 0.5, x["state"])
    expected, _ = gated_delta_rule(x["q"], x["k"], x["v"], x["beta"], decay, scale=0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_vector_decays_of_the_delta_rule_are_called_as_kda_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunk(q: Any, k: Any, v: Any, *, g: Any, output_final_state: bool, **keywords: Any) -> Any:
        assert output_final_state and g.is_contiguous() and g.dtype == torch.float32 and g.ndim == 4
        beta, state, scale = keywords["beta"], keywords["initial_state"], keywords["scale"]
        return gated_delta_rule(q, k, v, beta, g.to(q.dtype), scale=scale, initial_state=state)

    stand_in(monkeypatch, "fla.ops.kda", chunk_kda=chunk)
    x = arguments()
    decay = x["g"][..., None].expand(-1, -1, -1, 3)
    found, _ = flash_linear.gated_delta(x["q"], x["k"], x["v"], x["beta"], decay, 0.5, x["state"])
    expected, _ = gated_delta_rule(x["q"], x["k"], x["v"], x["beta"], decay, scale=0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_generalized_delta_rule_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunk(
        q: Any, k: Any, v: Any, a: Any, b: Any, gk: Any, *, output_final_state: bool, **keywords: Any
    ) -> Any:
        assert output_final_state and gk.is_contiguous() and gk.dtype == torch.float32
        assert a.dtype == b.dtype == q.dtype and keywords["initial_state"].dtype == torch.float32
        return generalized_delta_rule(q, k, v, a, b, gk.to(q.dtype), **keywords)

    stand_in(monkeypatch, "fla.ops.generalized_delta_rule", chunk_dplr_delta_rule=chunk)
    x = arguments()
    decay = x["g"][..., None].expand(-1, -1, -1, 3)
    a, b = -x["k"], 0.5 * x["k"]
    found, _ = flash_linear.generalized_delta(x["q"], x["k"], x["v"], a, b, decay, 0.5, x["state"])
    expected, _ = generalized_delta_rule(x["q"], x["k"], x["v"], a, b, decay, scale=0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["head", "vector", "delta", "gated delta", "kda", "generalized"])
def test_its_kernels_agree_with_ours(kind: str) -> None:
    pytest.importorskip("fla")
    x = {name: tensor.cuda() for name, tensor in arguments(torch.float32).items()}
    half = {name: tensor.bfloat16() for name, tensor in x.items()}
    wide = {name: tensor.float() for name, tensor in half.items()}
    if kind == "kda":
        found, last, expected, expected_last = (
            result
            for part in (half, wide)
            for result in gated_delta_rule(
                part["q"], part["k"], part["v"], part["beta"], part["g"][..., None].repeat(1, 1, 1, 3)
            )
        )
    elif kind == "generalized":
        found, last, expected, expected_last = (
            result
            for part in (half, wide)
            for result in generalized_delta_rule(
                part["q"],
                part["k"],
                part["v"],
                -part["k"],
                part["beta"][..., None] * part["k"],
                part["g"][..., None].repeat(1, 1, 1, 3),
            )
        )
    elif "delta" in kind:
        chosen = [None if kind == "delta" else part["g"] for part in (half, wide)]
        found, last = gated_delta_rule(half["q"], half["k"], half["v"], half["beta"], chosen[0])
        expected, expected_last = gated_delta_rule(wide["q"], wide["k"], wide["v"], wide["beta"], chosen[1])
    else:
        decays = [
            part["g"] if kind == "head" else part["g"][..., None].repeat(1, 1, 1, 3) for part in (half, wide)
        ]
        found, last = gated_linear_attention(half["q"], half["k"], half["v"], decays[0])
        expected, expected_last = gated_linear_attention(wide["q"], wide["k"], wide["v"], decays[1])
    # a few roundings to bfloat16 (2^-8 each) of what is summed
    assert float((found.float() - expected).norm() / expected.norm()) < 0.02
    assert float((last.float() - expected_last).norm() / expected_last.norm()) < 0.02
