"""A decode state: used up once, kept on disk, made and changed in any mode."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from recallfront.models import load, save
from recallfront.models.decoding.decode_graph import StaticStep
from recallfront.models.decoding.generation import generate
from tests.models.cases import CASES, case_config, draw_tokens, make_model


@pytest.mark.parametrize("name", ("attention", "hawk", "grouped", "mamba2"))
def test_a_state_is_used_up_once(name: str) -> None:
    model, tokens = make_model(case_config(name)), draw_tokens(2, 6)
    start = model.init_state(2)
    _, state = model.prefill(tokens, start)
    copy = state.select(torch.arange(2))
    first, _ = model.step(tokens[:, 0], state)
    with pytest.raises(ValueError, match="has been used up"):
        model.step(tokens[:, 0], state)
    for spent in (state, start):
        with pytest.raises(ValueError, match="has been used up"):
            model.prefill(tokens, spent)
    again, _ = model.step(tokens[:, 0], copy)
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", ("attention", "griffin", "linear", "mamba2"))
def test_nothing_is_made_of_a_used_up_state(name: str) -> None:
    model, tokens = make_model(case_config(name)), draw_tokens(2, 6)
    _, state = model.prefill(tokens, model.init_state(2))
    twin = copy.copy(state)
    static = StaticStep(model, state.select(torch.arange(2)), 20)
    first, _ = model.step(tokens[:, 0], state)
    assert torch.equal(model.step(tokens[:, 0], twin)[0], first), "a copy has tensors of its own"
    uses: list[Callable[[], object]] = [
        lambda: state.select(torch.arange(2)),
        lambda: copy.copy(state),
        lambda: StaticStep(model, state, 20),
        lambda: static.load(state),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="has been used up"):
            use()
    other = make_model(case_config("hawk"))
    with pytest.raises(ValueError, match="another configuration"):
        static.load(other.init_state(2))


@pytest.mark.parametrize("name", ("attention", "window", "griffin", "gated_deltanet", "mamba2"))
def test_a_copy_and_a_static_step_made_in_inference_mode_go_on_outside(name: str) -> None:
    model, tokens = make_model(case_config(name), torch.bfloat16), draw_tokens(2, 6)
    _, state = model.prefill(tokens, model.init_state(2))
    with torch.inference_mode():
        chosen = state.select(torch.arange(2))
        static = StaticStep(model, state.select(torch.arange(2)), 20)
        static.run()
        again = static.copy()
        static.load(state.select(torch.arange(2)))
    for step in (static, again):
        step.run()
    model.step(tokens[:, 0], chosen)


def test_a_refused_call_leaves_the_state_as_it_was() -> None:
    model = make_model(case_config("griffin"))
    _, state = model.prefill(draw_tokens(2, 5), model.init_state(2))
    with pytest.raises(ValueError, match="tokens have 3 rows"):
        model.step(draw_tokens(3, 1)[:, 0], state)
    model.step(draw_tokens(2, 1)[:, 0], state)


@pytest.mark.parametrize("name", ("attention", "griffin", "grouped", "mamba2"))
def test_a_state_can_be_kept_on_disk(name: str) -> None:
    model, tokens = make_model(case_config(name)), draw_tokens(2, 6)
    _, state = model.prefill(tokens, model.init_state(2))
    _, state = model.step(tokens[:, 0], state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    kept: Any = torch.load(file, weights_only=False)
    assert torch.equal(model.step(tokens[:, 1], kept)[0], model.step(tokens[:, 1], state)[0])


@pytest.mark.parametrize("name", CASES)
def test_generation_in_inference_mode(name: str) -> None:
    model, tokens = make_model(case_config(name), torch.float32), draw_tokens(2, 7)
    for lengths in (None, torch.tensor([7, 3])):
        expected = generate(model, tokens, max_new_tokens=3, lengths=lengths)
        with torch.inference_mode():
            assert generate(model, tokens, max_new_tokens=3, lengths=lengths) == expected


def test_a_compiled_model_is_saved_under_its_own_names(tmp_path: Any) -> None:
    model = make_model(case_config("hawk"), torch.float32)
    loaded = load(save(torch.compile(model, backend="eager"), tmp_path))  # type: ignore[arg-type]
    assert torch.equal(loaded(draw_tokens(1, 5)), model(draw_tokens(1, 5)))
