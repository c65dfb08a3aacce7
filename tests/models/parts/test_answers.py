"""Losses of the answers alone, in pieces, against PyTorch's cross entropy of all logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recallfront.models import LanguageModel, build, parse_config
from recallfront.models.parts import answers as parts
from recallfront.models.parts.answers import MOST_LOGITS, answered, capped
from tests.models.cases import case_config, draw_tokens, make_model
from tests.models.largest import Largest


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("most", [1, 3 * 11, 10**6])  # one row at a time, three, all
def test_losses_and_gradients_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, cap: float | None, most: int
) -> None:
    monkeypatch.setattr(parts, "MOST_LOGITS", most)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(8, 5, dtype=torch.float64, generator=draw).requires_grad_()
    weight = torch.randn(11, 5, dtype=torch.float64, generator=draw).requires_grad_()
    asked = torch.randint(11, (8,), generator=draw)
    found = answered(hidden, weight, asked, cap)
    logits = capped(F.linear(hidden, weight), cap)
    expected = F.cross_entropy(logits, asked, reduction="none")
    torch.testing.assert_close(found.losses, expected.detach())
    assert len(found.predicted) == 0
    with torch.no_grad():
        read = answered(hidden, weight, asked, cap)
    assert torch.equal(read.predicted, logits.argmax(-1))
    # its logits are laid out otherwise: sums are rounded otherwise
    torch.testing.assert_close(read.losses, found.losses, rtol=1e-12, atol=1e-12)
    own = torch.autograd.grad(found.loss * 0.3, (hidden, weight))
    torch.testing.assert_close(own, torch.autograd.grad(expected.sum() * 0.3, (hidden, weight)))


class Searched(TorchDispatchMode):
    """The distances in memory of the numbers of which the place of the largest is looked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.distances: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.argmax.default, torch.ops.aten.max.dim):
            self.distances.append(args[0].stride(args[1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_most_likely_token_is_looked_for_along_memory(cap: float | None) -> None:
    """Across it, evaluation on a CPU takes up to 1.7 times as long."""
    hidden, weight = torch.ones(7, 3), torch.eye(5, 3)
    with torch.no_grad(), Searched() as seen:
        found = answered(hidden, weight, torch.zeros(7, dtype=torch.int64), cap)
    assert seen.distances == [1] and len(found.predicted) == 7


def test_a_frozen_unembedding_gets_no_gradient() -> None:
    hidden, weight = torch.ones(2, 3, requires_grad=True), torch.eye(4, 3)
    answered(hidden, weight, torch.tensor([0, 3]), None).loss.backward()
    assert hidden.grad is not None and weight.grad is None


@pytest.mark.parametrize("name", ["hawk", "attention-none"])  # a cap and tied, and neither
def test_a_model_answers_where_it_is_asked(name: str) -> None:
    model, tokens = make_model(case_config(name)), draw_tokens(2, 9)
    at, asked = torch.tensor([3, 8, 9, 17]), torch.tensor([1, 16, 0, 4])
    found = model(tokens, at=at, answers=asked)
    expected = F.cross_entropy(model(tokens).flatten(0, 1)[at], asked, reduction="sum")
    torch.testing.assert_close(found.loss, expected)
    weights = list(model.parameters())
    own, other = (torch.autograd.grad(loss, weights) for loss in (found.loss, expected))
    torch.testing.assert_close(own, other)


@pytest.mark.parametrize("checkpoints", [False, True])
def test_after_the_last_mixer_only_asked_places_are_computed(checkpoints: bool) -> None:
    model, tokens = make_model(case_config("hawk")), draw_tokens(2, 9)
    model.checkpoint_activations = checkpoints
    seen: dict[str, int] = {}
    for name, module in model.named_modules():
        module.register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0].shape[:-1].numel()})
        )
    model(tokens, at=torch.tensor([3, 8, 9]), answers=torch.tensor([1, 16, 0])).loss.backward()
    last = f"layers.{len(model.layers) - 1}"
    assert seen[f"{last}.mixer"] == seen["layers.0.mlp.up"] == 18
    assert seen[f"{last}.mlp_norm"] == seen[f"{last}.mlp.up"] == seen["final_norm"] == 3


@pytest.mark.parametrize("name", ["hawk", "attention-none"])
def test_a_model_that_is_asked_nothing_gets_gradients_of_0(name: str) -> None:
    model, nothing = make_model(case_config(name)), torch.ones(0, dtype=torch.int64)
    found = model(draw_tokens(2, 9), at=nothing, answers=nothing)
    found.loss.backward()
    assert float(found.loss.detach()) == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_no_answers_come_to_nothing() -> None:
    found = answered(torch.ones(0, 3), torch.ones(4, 3), torch.ones(0, dtype=torch.int64), None)
    assert float(found.loss) == 0 and len(found.losses) == 0


ROWS, LENGTH, VOCABULARY = 64, 64, 8192


@pytest.mark.parametrize(
    ("every", "most"),
    [
        # of 8 places a row: their logits are made at once
        (8, ROWS * LENGTH // 8 * VOCABULARY),
        # of every place, as in text: four pieces
        (1, MOST_LOGITS),
    ],
)
def test_logits_of_all_places_never_exist_at_once(
    every: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as on a GPU, whose bound is memory; on a CPU caches set a lower one
    monkeypatch.setattr(parts, "_CACHED_LOGITS", MOST_LOGITS)
    model, tokens, at, asked = field_step("window", ROWS, every)
    with Largest() as seen:
        model(tokens, at=at, answers=asked).loss.backward()
    assert seen.numbers == most < ROWS * LENGTH * VOCABULARY


@pytest.mark.parametrize("name", ["attention", "window", "hawk", "based"])
def test_the_first_losses_are_those_of_a_training_on_all_logits(name: str) -> None:
    """Six steps of AdamW in float32, of which each changes what the next one starts from."""
    model, tokens, at, asked = field_step(name, 8, every=8)
    whole, _, _, _ = field_step(name, 8, every=8)
    labels = torch.full((tokens.numel(),), -100)
    labels[at] = asked

    def own() -> Tensor:
        loss: Tensor = model(tokens, at=at, answers=asked).loss / len(asked)
        return loss

    def other() -> Tensor:
        return F.cross_entropy(whole(tokens).flatten(0, 1), labels, ignore_index=-100)

    losses = [six_steps(trained, loss) for trained, loss in ((model, own), (whole, other))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0][-1] < losses[0][0] - 0.1


def field_step(name: str, rows: int, every: int) -> tuple[LanguageModel, Tensor, Tensor, Tensor]:
    """The field's small model, so many rows of tokens, one in `every` of their places, and what is asked there."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (rows, LENGTH), generator=draw)
    at = torch.arange(every - 1, rows * LENGTH, every)
    asked = torch.randint(VOCABULARY, at.shape, generator=draw)
    model = build(parse_config({"architecture": name, "vocab_size": VOCABULARY, "width": 64}))
    return model, tokens, at, asked


def six_steps(model: LanguageModel, loss: Callable[[], Tensor]) -> list[float]:
    """The losses of six steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for _ in range(6):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found
