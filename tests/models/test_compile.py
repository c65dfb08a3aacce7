"""torch.compile and activation checkpointing give the same logits and gradients."""

import shutil
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
import torch
from torch import Tensor

from recallfront.models import Architecture, LanguageModel, parse_config
from recallfront.models.mixers import registry
from tests.models.cases import CASES, case_config, draw_tokens, make_model

ONE_EACH = [name for name in CASES if "-" not in name]

# Every mixer once, with its knobs: the compiler traces layer by layer, and a second layer costs as much as the first.
TOGETHER: dict[str, dict[str, Any]] = {
    "softmax": {
        "mixers": {
            "attention": {"positions": "rope"},
            "window": {"window_size": 5},
            "grouped": {"group_size": 4},
        },
        "mlp": "swiglu",
    },
    "feature maps": {
        "mixers": {"linear": {"feature_dim": 3}, "based_conv": {}, "short_conv": {}},
        "mlp": "gelu",
    },
    "decays": {"mixers": {"mamba2": {"state_dim": 5}, "gla": {"gate_rank": 3}, "retnet": {}, "hgrn2": {}}},
    "delta rules": {
        "mixers": {"deltanet": {}, "gated_deltanet": {"state_dim": 6}, "kda": {}},
        "norm": "layer",
    },
    "recurrences": {"mixers": {"rg_lru": {}, "rwkv7": {"decay_rank": 3}}, "biases": True},
}


def together(name: str) -> Architecture:
    values = dict(TOGETHER[name])
    mixers = {
        letter: {"mixer": mixer} | knobs
        for letter, (mixer, knobs) in zip(ascii_uppercase, values.pop("mixers").items(), strict=False)
    }
    shared = {"vocab_size": 17, "width": 16, "num_heads": 2, "mlp_expansion": 1}
    return parse_config(
        {"architecture": "hybrid", "mixers": mixers, "pattern": "".join(mixers)} | shared | values
    )


def test_every_mixer_is_among_what_is_compiled() -> None:
    assert sorted(m for values in TOGETHER.values() for m in values["mixers"]) == sorted(registry.names())


def logits_and_gradients(model: LanguageModel, run: object) -> tuple[Tensor, ...]:
    logits = run(draw_tokens(2, 9))  # type: ignore[operator]
    return logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", TOGETHER)
def test_compiled(name: str) -> None:
    model = make_model(together(name))
    expected = logits_and_gradients(model, model)
    torch._dynamo.reset()
    found = logits_and_gradients(model, torch.compile(model, backend="aot_eager"))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++")
def test_compiled_to_machine_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's default compiler on one architecture, in float64: what differs is the order of sums."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = make_model(case_config("attention"))
    expected = logits_and_gradients(model, model)
    torch._dynamo.reset()
    found = logits_and_gradients(model, torch.compile(model, fullgraph=True))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ONE_EACH)
def test_checkpointed_activations(name: str) -> None:
    model = make_model(case_config(name))
    expected = logits_and_gradients(model, model)
    model.checkpoint_activations = True
    for ours, theirs in zip(logits_and_gradients(model, model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
