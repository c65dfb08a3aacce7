"""What every architecture must do, in one class."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.models import Architecture, LanguageModel, build, load, save
from recallfront.models.mixers import registry
from recallfront.models.parts.state import State
from tests.models.cases import CASES, LENGTHS, case_config, draw_tokens, make_model

LONGEST = max(LENGTHS)
TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 2e-5)]
SUMMED = {"hidden", "sums", "matrix"}  # states that a text is summed up in


@pytest.fixture(params=CASES)
def config(request: pytest.FixtureRequest) -> Architecture:
    return case_config(request.param)


@pytest.fixture
def model(config: Architecture) -> LanguageModel:
    return make_model(config)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def decode(model: LanguageModel, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """Logits (B, T, vocab) token by token."""
    logits = []
    for column in tokens.unbind(1):
        row, state = model.step(column, state)
        logits.append(row)
    return torch.stack(logits, dim=1), state


def test_every_mixer_is_in_a_drawn_hybrid() -> None:
    hybrids = [case_config(name) for name in CASES if name.startswith("hybrid-")]
    drawn = {mixer.name() for hybrid in hybrids for _, mixer, _ in hybrid.mixers_used}
    assert drawn == set(registry.names())


class TestContract:
    @pytest.fixture(autouse=True)
    def without_gradients(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    def test_a_token_changes_nothing_before_it(self, model: LanguageModel) -> None:
        tokens = draw_tokens(2, LONGEST)
        for place in (1, 5, 12):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % 17
            before, after = model(tokens), model(changed)
            assert torch.equal(before[:, :place], after[:, :place])
            assert not torch.equal(before[:, place], after[:, place])

    @pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
    def test_step_by_step_equals_parallel(
        self, config: Architecture, dtype: torch.dtype, tolerance: float
    ) -> None:
        model = make_model(config, dtype)
        tokens = draw_tokens(2, LONGEST)
        expected = model(tokens)
        scale = float(expected.abs().max())
        logits, _ = decode(model, tokens, model.init_state(2))
        close(logits / scale, expected / scale, tolerance)

    @pytest.mark.parametrize("lengths", [None, torch.tensor([3, 6])])
    def test_a_step_on_a_cpu_equals_one_anywhere(
        self, model: LanguageModel, lengths: Tensor | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens, more = draw_tokens(2, 6), draw_tokens(2, 9, seed=1)
        _, state = model.prefill(tokens, model.init_state(2), lengths=lengths)
        copy = state.select(torch.arange(2))
        lean, state = decode(model, more, state)
        assert not any(tensor.is_inference() for layer in state.layers for tensor in layer.values())
        monkeypatch.setattr("recallfront.models.language_model.runs_lean", lambda _: False)
        close(lean, decode(model, more, copy)[0])

    @pytest.mark.parametrize("length", LENGTHS)
    @pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
    def test_prefill_then_steps_equal_parallel(
        self, config: Architecture, length: int, dtype: torch.dtype, tolerance: float
    ) -> None:
        model = make_model(config, dtype)
        tokens = draw_tokens(2, LONGEST + 3)
        expected = model(tokens)
        prompt, state = model.prefill(tokens[:, :length], model.init_state(2))
        rest, _ = decode(model, tokens[:, length:], state)
        scale = float(expected.abs().max())
        close(torch.cat([prompt, rest], dim=1) / scale, expected / scale, tolerance)

    @pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
    def test_texts_longer_than_every_chunk(
        self, config: Architecture, dtype: torch.dtype, tolerance: float
    ) -> None:
        """Operators work in chunks of up to 128 tokens: packed, in blocks and by steps across their edges."""
        config = config.model_copy(update={"learned_positions": 150 if config.learned_positions else 0})
        model = make_model(config, dtype)
        tokens = draw_tokens(2, 150)
        expected = model(tokens)
        scale = float(expected.abs().max())
        first, state = model.prefill(tokens[:, :70], model.init_state(2))
        second, state = model.prefill(tokens[:, 70:147], state)
        third, _ = decode(model, tokens[:, 147:], state)
        close(torch.cat([first, second, third], dim=1) / scale, expected / scale, tolerance)
        packed = model(tokens, torch.cat([torch.arange(64), torch.arange(3), torch.arange(83)]).expand(2, -1))
        for start, end in ((0, 64), (64, 67), (67, 150)):
            close(packed[:, start:end] / scale, model(tokens[:, start:end]) / scale, tolerance)

    @pytest.mark.parametrize("first", LENGTHS)
    @pytest.mark.parametrize("second", [2, 9])
    @pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
    def test_a_block_goes_on_from_a_state(
        self, config: Architecture, first: int, second: int, dtype: torch.dtype, tolerance: float
    ) -> None:
        model = make_model(config, dtype)
        tokens = draw_tokens(2, first + second + 4)
        expected = model(tokens)
        scale = float(expected.abs().max())
        _, state = model.prefill(tokens[:, :first], model.init_state(2))
        logits, state = model.prefill(tokens[:, first : first + second], state)
        rest, _ = decode(model, tokens[:, first + second :], state)
        close(torch.cat([logits, rest], dim=1) / scale, expected[:, first:] / scale, tolerance)

    def test_rows_of_different_lengths_equal_each_row_alone(self, model: LanguageModel) -> None:
        lengths, more = torch.tensor([1, 4, 7, 12]), torch.tensor([6, 1, 5, 2])
        tokens, then, last = draw_tokens(4, 12), draw_tokens(4, 6, seed=1), draw_tokens(4, 8, seed=2)
        logits, state = model.prefill(tokens, model.init_state(4), lengths=lengths)
        more_logits, state = model.prefill(then, state, lengths=more)
        last_logits, _ = decode(model, last, state)
        for row, (a, b) in enumerate(zip(lengths.tolist(), more.tolist(), strict=True)):
            alone = model(torch.cat([tokens[row, :a], then[row, :b], last[row]])[None])[0]
            close(logits[row, :a], alone[:a])
            close(more_logits[row, :b], alone[a : a + b])
            close(last_logits[row], alone[a + b :])

    def test_last_only_gives_the_last_logits_of_each_row(self, model: LanguageModel) -> None:
        tokens, lengths = draw_tokens(2, 6), torch.tensor([3, 6])
        whole, _ = model.prefill(tokens, model.init_state(2), lengths=lengths)
        last, _ = model.prefill(tokens, model.init_state(2), lengths=lengths, last_only=True)
        close(last[:, 0], whole[torch.arange(2), lengths - 1])

    def test_packed_documents_equal_separate_ones(self, model: LanguageModel) -> None:
        cuts = [(1, 9, 14), (7, 8, 23)]
        tokens = draw_tokens(2, 24)
        positions = torch.zeros_like(tokens)
        for row, ends in enumerate(cuts):
            for start, end in zip((0, *ends), (*ends, 24), strict=True):
                positions[row, start:end] = torch.arange(end - start)
        packed = model(tokens, positions)
        for row, ends in enumerate(cuts):
            for start, end in zip((0, *ends), (*ends, 24), strict=True):
                close(packed[row, start:end], model(tokens[row : row + 1, start:end])[0])

    def test_positions_of_one_document_change_nothing(self, model: LanguageModel) -> None:
        tokens = draw_tokens(2, 9)
        assert torch.equal(model(tokens, torch.arange(9).expand(2, 9)), model(tokens))

    @pytest.mark.parametrize("length", LENGTHS)
    def test_the_measured_state_is_the_formula(
        self, config: Architecture, model: LanguageModel, length: int
    ) -> None:
        _, prefilled = model.prefill(draw_tokens(2, length), model.init_state(2))
        _, stepped = decode(model, draw_tokens(2, length), model.init_state(2))
        expected = 2 * 8 * config.state_elements(length)  # two rows of float64
        assert model.state_bytes(prefilled) == model.state_bytes(stepped) == expected

    def test_a_bounded_state_takes_no_more_memory_as_the_context_grows(
        self, config: Architecture, model: LanguageModel
    ) -> None:
        """All of its tensors, also what of them no later token can see."""
        if any(mixer.name() == "attention" for _, mixer, _ in config.mixers_used):
            assert config.state_elements(200) > config.state_elements(100)
            return
        assert config.state_elements(10**6) == config.state_elements(100)
        state = model.init_state(2)
        sizes = [{name: tensor.shape for name, tensor in layer.items()} for layer in state.layers]
        for block in (7, 23):
            _, state = model.prefill(draw_tokens(2, block), state)
            _, state = decode(model, draw_tokens(2, 3), state)
            assert [{name: x.shape for name, x in layer.items()} for layer in state.layers] == sizes

    def test_save_and_load(self, config: Architecture, tmp_path: Path) -> None:
        model = make_model(config, torch.float32)
        loaded = load(save(model, tmp_path / "model"))
        tokens = draw_tokens(2, 7)
        assert loaded.config == config
        assert torch.equal(loaded(tokens), model(tokens))

    def test_a_seed_gives_the_same_model_and_leaves_the_global_generator_alone(
        self, config: Architecture
    ) -> None:
        torch.manual_seed(3)
        untouched = torch.random.get_rng_state()
        first, again, other = build(config, seed=5), build(config, seed=5), build(config, seed=6)
        assert torch.equal(torch.random.get_rng_state(), untouched)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
        assert not torch.equal(first.embedding.weight, other.embedding.weight)

    def test_a_model_in_bfloat16_decodes_as_it_reads(self, config: Architecture) -> None:
        model = make_model(config, torch.bfloat16)
        tokens = draw_tokens(2, 12)
        expected = model(tokens)
        assert expected.dtype == torch.bfloat16
        logits, _ = decode(model, tokens, model.init_state(2))
        difference = (logits.float() - expected.float()).norm() / expected.float().norm()
        assert float(difference) < 0.05
        _, state = model.prefill(tokens, model.init_state(2))
        for layer in state.layers:
            assert all(layer[name].dtype == torch.float32 for name in SUMMED & layer.keys())

    def test_a_state_of_another_model_or_batch_is_refused(self, model: LanguageModel) -> None:
        with pytest.raises(ValueError, match="tokens have 3 rows and the state 2"):
            model.step(draw_tokens(3, 1)[:, 0], model.init_state(2))
        other = build(case_config("attention").resized(width=32))
        with pytest.raises(ValueError, match="another configuration"):
            model.prefill(draw_tokens(2, 3), other.init_state(2))


class TestTraining:
    def test_what_decoding_leaves_can_be_trained_on(self, model: LanguageModel) -> None:
        logits, _ = model.step(draw_tokens(2, 1)[:, 0], model.init_state(2))
        (logits * logits.new_ones(1).requires_grad_()).sum().backward()
        model(draw_tokens(2, 9)).sum().backward()

    def test_gradients_of_packed_and_plain_batches(self, config: Architecture) -> None:
        """The slope along a random direction against finite differences, in float64."""
        model = make_model(config)
        tokens, targets = draw_tokens(2, 9), draw_tokens(2, 9, seed=1)
        positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], list(range(9))])
        parameters = list(model.parameters())
        generator = torch.Generator().manual_seed(2)
        direction = [
            torch.randn(parameter.shape, generator=generator, dtype=torch.float64) for parameter in parameters
        ]

        def loss() -> Tensor:
            return F.cross_entropy(model(tokens, positions).flatten(0, 1), targets.flatten())

        def move(distance: float) -> None:
            with torch.no_grad():
                for parameter, step in zip(parameters, direction, strict=True):
                    parameter.add_(step, alpha=distance)

        gradients = torch.autograd.grad(loss(), parameters)
        slope = sum(float((a * b).sum()) for a, b in zip(gradients, direction, strict=True))
        move(1e-6)
        above = loss().item()
        move(-2e-6)
        below = loss().item()
        assert slope == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-7)

    def test_a_short_run_learns(self, config: Architecture) -> None:
        model = build(config, seed=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
        tokens = draw_tokens(8, 12)
        losses = []
        for _ in range(17):
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]
