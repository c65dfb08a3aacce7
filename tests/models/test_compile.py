"""torch.compile and activation checkpointing give the same logits and gradients."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recallfront.models import LanguageModel
from tests.models.cases import CASES, case_config, draw_tokens, make_model

ONE_EACH = [name for name in CASES if "-" not in name]


def logits_and_gradients(model: LanguageModel, run: object) -> tuple[Tensor, ...]:
    logits = run(draw_tokens(2, 12))  # type: ignore[operator]
    return logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", ONE_EACH)
def test_compiled(name: str) -> None:
    model = make_model(case_config(name))
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
