"""What a CUDA graph of a training step records asks the device nothing: such a capture fails, on a GPU alone."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recallfront.kernels.gated_linear_attention import pytorch as gated
from recallfront.kernels.gated_linear_attention.operator import gated_linear_attention
from recallfront.kernels.window_attention import pytorch as window
from tests.models.cases import CASES, case_config, draw_tokens, make_model

_ASKS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}
_COPIES = {torch.ops.aten.lift_fresh.default}  # what `torch.tensor` begins with


class Refusing(TorchDispatchMode):
    """Within, none of these operations may run."""

    def __init__(self, refused: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused = refused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.refused, func
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _captured(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gated, window):
        monkeypatch.setattr(module, "captured", lambda x: True)


@pytest.mark.parametrize("name", CASES)
def test_a_training_step_asks_the_device_nothing(name: str) -> None:
    model, tokens = make_model(case_config(name), torch.float32), draw_tokens(2, 23)
    at, answers = torch.arange(5), torch.arange(5)
    with Refusing(_ASKS):
        model(tokens, at=at, answers=answers).loss.backward()


def test_a_captured_decay_may_be_mild_or_strong() -> None:
    drawn = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 40, 2, 4, generator=drawn, dtype=torch.float64) for _ in range(3))
    for factor in (0.01, 30):
        decay = -factor * torch.rand(2, 40, 2, 4, generator=drawn, dtype=torch.float64)
        expected = gated_linear_attention(q, k, v, decay, backend="reference")
        torch.testing.assert_close(gated_linear_attention(q, k, v, decay), expected)


def test_slopes_are_not_copied_to_the_device() -> None:
    slopes = (0.5, 0.3)
    with Refusing(_ASKS | _COPIES):
        found = window._bias(3, 5, 4, slopes, torch.float32, torch.device("cpu"))
    ages = torch.arange(2, 5)[:, None] - torch.arange(5)
    expected = (-torch.tensor(slopes)[:, None, None] * ages).masked_fill((ages < 0) | (ages >= 4), -torch.inf)
    assert torch.equal(found, expected)


def test_a_captured_bias_is_not_kept() -> None:
    before = window._kept_bias.cache_info().misses
    window.Visibility(4, None, None).bias(torch.zeros(1), 3, 77)
    assert window._kept_bias.cache_info().misses == before
