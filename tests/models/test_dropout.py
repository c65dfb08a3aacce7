"""Dropout: what nothing is dropped from is the model itself, and what is dropped has the mean of the rest."""

from typing import Any

import pytest
import torch

from recallfront.models import build, parse_config
from tests.models.cases import draw_tokens

NOTHING = 1e-12


def model(**knobs: Any) -> Any:
    config = parse_config({"vocab_size": 17, "width": 16, "num_heads": 2, **knobs})
    return build(config).double()


@pytest.mark.parametrize(
    "knobs",
    [
        {"architecture": "attention", "num_kv_heads": 1},
        {"architecture": "attention", "positions": "t5"},
        {"architecture": "window", "window_size": 3, "positions": "rope"},
    ],
    ids=str,
)
@pytest.mark.parametrize("packed", [False, True])
def test_attention_that_drops_nothing_is_itself(knobs: dict[str, Any], packed: bool) -> None:
    plain, dropping = model(**knobs), model(attention_dropout=NOTHING, **knobs).train()
    tokens = draw_tokens(2, 9)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5]] * 2) if packed else None
    torch.testing.assert_close(dropping(tokens, positions), plain(tokens, positions), atol=1e-10, rtol=0)


@pytest.mark.parametrize("setting", ["embedding_dropout", "attention_dropout"])
def test_dropping_is_of_training_alone_and_follows_pytorchs_generator(setting: str) -> None:
    dropping, tokens = model(architecture="attention", **{setting: 0.3}), draw_tokens(2, 9)
    assert dropping.config.drops and not model(architecture="attention").config.drops
    whole = dropping.eval()(tokens)
    assert torch.equal(whole, model(architecture="attention")(tokens))
    dropping.train()
    with torch.random.fork_rng():
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(dropping(tokens))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], whole)
    state = dropping.init_state(2)
    torch.testing.assert_close(dropping.prefill(tokens, state)[0], whole, atol=1e-10, rtol=0)
