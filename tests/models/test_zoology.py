"""The models of zoology's protocol beside zoology's own, where a checkout of it is at hand.

RECALLFRONT_ZOOLOGY names the folder of github.com/HazyResearch/zoology at dbcb60d, the last commit that trains MQAR.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recallfront.benchmarks.platform.zoology import imported, their_model
from recallfront.models import LanguageModel
from recallfront.models.building import build
from recallfront.models.configs import architecture as architecture_of
from recallfront.models.configs import parse_config
from recallfront.sweeps.protocols import PROTOCOLS

CHECKOUT = os.environ.get("RECALLFRONT_ZOOLOGY", "")
VOCABULARY, WIDTH, LENGTH, BLOCK = 64, 32, 24, 5
# knobs of ours, and what zoology's mixer has otherwise than in a benchmark
MIXERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention": ({}, {}),
    "window": ({"window_size": BLOCK + 1}, {"block_size": BLOCK}),
    "based": ({"feature_dim": 8}, {"feature_dim": 8}),
}


@pytest.fixture
def zoology() -> Iterator[None]:
    """Zoology's modules can be imported."""
    if not CHECKOUT:
        pytest.skip("RECALLFRONT_ZOOLOGY names no checkout of zoology")
    with imported(Path(CHECKOUT)):
        yield


def ours(name: str) -> LanguageModel:
    config = architecture_of(name)
    assert config is not None
    settings = PROTOCOLS["zoology"].settings(config) | MIXERS[name][0]
    made = {"architecture": name, "vocab_size": VOCABULARY, "width": WIDTH, **settings}
    return build(parse_config(made))


def theirs(name: str) -> nn.Module:
    return their_model(name, vocabulary=VOCABULARY, width=WIDTH, length=LENGTH, **MIXERS[name][1])


def as_ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zoology's weights under our names."""
    names = {
        "backbone.embeddings.word_embeddings.weight": "embedding.weight",
        "backbone.ln_f.": "final_norm.",
        "backbone.layers.": "layers.",
        "sequence_mixer.mixer.": "mixer.",
        "norm1.": "mixer_norm.",
        "norm2.": "mlp_norm.",
        "projection.": "gate.",
        "conv.conv.weight": "conv.taps",
        "conv.conv.bias": "conv.bias",
        "Wqkv.": "qkv.",
        "out_proj.": "out.",
        "proj_o.": "out.",
    }
    found = {}
    for name, value in weights.items():
        for their, our in names.items():
            name = name.replace(their, our)
        found[name] = value.squeeze(1) if name.endswith("taps") else value
    found.pop("lm_head.weight")
    parts = [f"layers.1.mixer.proj_{part}.weight" for part in "qkv"]
    if parts[0] in found:
        found["layers.1.mixer.qkv.weight"] = torch.cat([found.pop(part) for part in parts])
    return found


@pytest.mark.usefixtures("zoology")
@pytest.mark.parametrize("name", MIXERS)
def test_the_same_weights_give_zoologys_logits(name: str) -> None:
    model, original = ours(name).double().eval(), theirs(name).double().eval()
    model.load_state_dict(as_ours(original.state_dict()))
    tokens = torch.randint(VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    # of Based, 1e-6 is added to a sum of weights that is at least 1/2, in zoology 1e-12
    tolerance = 1e-5 if name == "based" else 1e-10
    with torch.no_grad():
        expected = original(tokens)
        torch.testing.assert_close(
            model(tokens), expected, atol=tolerance * float(expected.abs().max()), rtol=0
        )


@pytest.mark.usefixtures("zoology")
@pytest.mark.parametrize("name", MIXERS)
def test_weights_are_drawn_as_zoology_draws_them(name: str) -> None:
    """Each matrix has the standard deviation of zoology's; vectors have its values."""
    torch.manual_seed(0)
    drawn, expected = ours(name).state_dict(), as_ours(theirs(name).state_dict())
    assert drawn.keys() == expected.keys()
    for key, value in expected.items():
        spread = float(value.std()) if value.numel() > WIDTH * 3 else math.nan
        if math.isfinite(spread):
            # of n draws the standard deviation varies by 1 / sqrt(2 n) of itself: five times that for each of the two
            tolerance = 10 / math.sqrt(2 * value.numel())
            assert float(drawn[key].std()) == pytest.approx(spread, rel=tolerance), key
        elif "conv" not in key:
            assert torch.equal(drawn[key], value), key
