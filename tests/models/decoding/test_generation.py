import pytest
import torch

from recallfront.models.decoding.generation import choose_token, generate, stream
from tests.models.cases import CASES, case_config, draw_tokens, make_model

MODEL = make_model(case_config("griffin"), torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_greedy_takes_the_likeliest_of_the_whole_text(name: str) -> None:
    model = make_model(case_config(name))
    tokens, lengths = draw_tokens(3, 6), torch.tensor([6, 2, 5])
    new = generate(model, tokens, max_new_tokens=9, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        text = tokens[row, :length].tolist()
        for token in new[row]:
            assert token == int(model(torch.tensor([text]))[0, -1].argmax())
            text.append(token)


def test_a_seed_gives_the_same_tokens() -> None:
    tokens = draw_tokens(2, 5)
    first, again, other = (
        generate(MODEL, tokens, max_new_tokens=12, temperature=1.5, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_stream_is_what_generate_collects() -> None:
    tokens = draw_tokens(2, 5)
    streamed = torch.stack(list(stream(MODEL, tokens, max_new_tokens=6)), dim=1)
    assert streamed.tolist() == generate(MODEL, tokens, max_new_tokens=6)


def test_rows_end_with_their_stop_token() -> None:
    tokens = draw_tokens(2, 5)
    free = generate(MODEL, tokens, max_new_tokens=10)
    stop = free[0][3]
    stopped = generate(MODEL, tokens, max_new_tokens=10, stop_tokens={stop})
    for whole, cut in zip(free, stopped, strict=True):
        assert cut == (whole[: whole.index(stop) + 1] if stop in whole else whole)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(4000, 4)
    generator = torch.Generator().manual_seed(0)

    def seen(**keywords: float) -> list[float]:
        chosen = choose_token(logits, temperature=1.0, generator=generator, **keywords)  # type: ignore[arg-type]
        return (torch.bincount(chosen, minlength=4) / 4000).tolist()

    assert seen() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert seen(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert seen(top_p=0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert seen(top_p=0.1) == [1, 0, 0, 0]
    assert seen(top_k=3, top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_values_that_make_no_sense(keywords: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(MODEL, draw_tokens(1, 3), **({"max_new_tokens": 2} | keywords))  # type: ignore[arg-type]
