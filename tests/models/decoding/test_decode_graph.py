import weakref

import pytest
import torch
from torch import Tensor

from recallfront.models.decoding.decode_graph import DecodeGraph, StaticStep
from recallfront.models.decoding.generation import generate, graph_capacity, stream
from recallfront.models.parts.state import State
from tests.models.cases import CASES, case_config, draw_tokens, make_model


@pytest.mark.parametrize("name", CASES)
def test_a_static_step_is_the_step_with_every_tensor_in_its_place(name: str) -> None:
    model = make_model(case_config(name))
    tokens, lengths = draw_tokens(3, 30), torch.tensor([6, 2, 5])
    prefilled = [model.prefill(tokens[:, :6], model.init_state(3), lengths=lengths)[1] for _ in range(2)]
    state = prefilled[0]
    static = StaticStep(model, prefilled[1], 30)
    places = [[x.data_ptr() for x in layer.values()] for layer in static.state.layers]
    for time in range(6, 30):
        expected, state = model.step(tokens[:, time], state)
        static.tokens.copy_(tokens[:, time])
        static.run()
        torch.testing.assert_close(static.logits, expected, rtol=1e-9, atol=1e-9)
    assert static.state.lengths.tolist() == state.lengths.tolist()
    assert [[x.data_ptr() for x in layer.values()] for layer in static.state.layers] == places


def test_logits_are_gone_when_a_step_makes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """For small models they are most of what a step takes: two of them would halve the largest batch."""
    model = make_model(case_config("griffin"))
    static = StaticStep(model, model.prefill(draw_tokens(2, 6), model.init_state(2))[1], 10)
    static.run()
    assert static.logits is not None
    before, alive, step = weakref.ref(static.logits), [], model.step

    def watched(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        alive.append(before() is not None)
        return step(tokens, state)

    monkeypatch.setattr(model, "step", watched)
    static.run()
    assert alive == [False]


def test_a_copy_can_be_tried_out() -> None:
    model = make_model(case_config("griffin"))
    tokens = draw_tokens(2, 8)
    static = StaticStep(model, model.prefill(tokens[:, :6], model.init_state(2))[1], 10)
    trial = static.copy()
    for step in (trial, trial, static):
        step.tokens.copy_(tokens[:, 6])
        step.run()
    _, state = model.prefill(tokens[:, :6], model.init_state(2))
    torch.testing.assert_close(static.logits, model.step(tokens[:, 6], state)[0])


@pytest.mark.parametrize("name", ["attention", "griffin", "based", "grouped"])
def test_another_state_is_loaded_into_place(name: str) -> None:
    model = make_model(case_config(name))
    tokens = draw_tokens(2, 20)
    static = StaticStep(model, model.prefill(tokens[:, :9], model.init_state(2))[1], 40)
    static.run()
    static.load(model.prefill(tokens[:, :6], model.init_state(2))[1])
    _, state = model.prefill(tokens[:, :6], model.init_state(2))
    for time in range(6, 20):
        expected, state = model.step(tokens[:, time], state)
        static.tokens.copy_(tokens[:, time])
        static.run()
        torch.testing.assert_close(static.logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("first", "then"), [(7, 50), (50, 7)])
def test_caches_that_have_grown_differently_are_loaded(first: int, then: int) -> None:
    model = make_model(case_config("attention"))
    tokens = draw_tokens(2, 60)
    state = model.init_state(2)
    for time in range(first):
        _, state = model.step(tokens[:, time], state)
    static = StaticStep(model, state, 60)
    state = model.init_state(2)
    for time in range(then):
        _, state = model.step(tokens[:, time], state)
    kept = state.select(torch.arange(2))
    static.load(state)
    static.tokens.copy_(tokens[:, then])
    static.run()
    expected, _ = model.step(tokens[:, then], kept)
    torch.testing.assert_close(static.logits, expected, rtol=1e-9, atol=1e-9)


def test_bad_arguments() -> None:
    model = make_model(case_config("attention"))
    _, state = model.prefill(draw_tokens(2, 6), model.init_state(2))
    with pytest.raises(ValueError, match="capacity is 6; the state has 6 tokens"):
        StaticStep(model, state, 6)
    with pytest.raises(ValueError, match="needs a GPU; the model is on cpu"):
        DecodeGraph(model, state, 10)
    static = StaticStep(model, state, 7)
    with pytest.raises(ValueError, match="the state has 7 tokens; capacity 7 allows fewer"):
        static.load(model.prefill(draw_tokens(2, 7), model.init_state(2))[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_a_graph_is_the_step(name: str) -> None:
    model = make_model(case_config(name), torch.float32).cuda()
    tokens = draw_tokens(3, 30).cuda()
    lengths = torch.tensor([6, 2, 5], device="cuda")
    prefilled = [model.prefill(tokens[:, :6], model.init_state(3), lengths=lengths)[1] for _ in range(2)]
    state, graph = prefilled[0], DecodeGraph(model, prefilled[1], 30)
    for time in range(6, 30):
        expected, state = model.step(tokens[:, time], state)
        torch.testing.assert_close(graph.step(tokens[:, time]), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="made for 30 tokens"):
        graph.step(tokens[:, 0])


def test_a_graph_is_made_for_no_more_tokens_than_have_positions() -> None:
    model = make_model(case_config("attention-gpt"))
    assert [graph_capacity(model, 5, new) for new in (20, 60, 61, 1000)] == [24, 64, 64, 64]
    assert graph_capacity(make_model(case_config("griffin")), 5, 1000) == 1004
    _, state = model.prefill(draw_tokens(2, 5), model.init_state(2))
    static = StaticStep(model, state, graph_capacity(model, 5, 1000))
    for _ in range(64 - 5):
        static.run()
    assert static.state.lengths.tolist() == [64, 64]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_generation_ends_with_the_positions() -> None:
    model, found = make_model(case_config("attention-gpt"), torch.float32), []
    for device in ("cpu", "cuda"):
        steps = stream(model.to(device), draw_tokens(2, 5).to(device), max_new_tokens=1000)
        given: list[list[int]] = []
        with pytest.raises(ValueError, match="the text is 65 tokens long; learned_positions=64"):
            given.extend(chosen.tolist() for chosen in steps)
        found.append(given)
    assert len(found[0]) == 60 and found[0] == found[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_generation_by_a_graph_gives_the_same_tokens() -> None:
    model, tokens = make_model(case_config("griffin"), torch.float32), draw_tokens(2, 5)
    expected = generate(model, tokens, max_new_tokens=20)
    assert generate(model.cuda(), tokens.cuda(), max_new_tokens=20) == expected
