"""Feature maps and positions against their equations; every linear attention with and without augmentation."""

import math
from typing import get_args

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from recallfront.models import parse_config
from recallfront.models.mixers.attention import T5Bias
from recallfront.models.parts.feature_maps import FeatureMap, FeatureMapName, make_feature_map
from recallfront.models.parts.layers import Drawn, sinusoids
from tests.models.cases import draw_tokens, make_model

MAPS = get_args(FeatureMapName)


def make(name: str, dim: int = 4, seed: int = 0) -> FeatureMap:
    feature_map = make_feature_map(name, heads=1, dim=dim, random_features=64, horizon=32).double()
    if isinstance(feature_map, Drawn):
        feature_map.initialise(torch.Generator().manual_seed(seed))
    return feature_map


def weights(feature_map: FeatureMap, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """phi(q_i) . phi(k_j) for q, k (T, D): (T, T)."""
    positions = torch.arange(len(q))[None]
    phi_q, phi_k = (feature_map(x[None, :, None], positions)[0, :, 0] for x in (q, k))
    products: torch.Tensor = phi_q @ phi_k.T
    return products


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    return q, k


def test_each_map_is_its_equation(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k = pair
    score = q @ k.T / 2  # 1 / sqrt(4)
    distance = torch.arange(6)[:, None] - torch.arange(6)
    softmaxes = [torch.cat([x.softmax(-1), (-x).softmax(-1)], dim=-1) for x in (q, k)]
    expected = {
        "taylor": 1 + score + score.square() / 2,
        "elu": (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).T,
        "relu": q.relu() @ k.relu().T,
        "square": q.square() @ k.square().T,
        "cosformer": (q.relu() @ k.relu().T) * torch.cos(torch.pi / 64 * distance.double()),
        "hedgehog": softmaxes[0] @ softmaxes[1].T,  # its matrices start as the identity
    }
    assert expected.keys() | {"performer"} == set(MAPS)
    for name, value in expected.items():
        torch.testing.assert_close(weights(make(name), q, k), value, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_cosformer_keeps_its_digits_far_into_a_text(dtype: torch.dtype) -> None:
    """Two roundings, of the cosine and of its product with x."""
    x, position = torch.ones(1, 1, 1, 1, dtype=dtype), 5001
    found = make("cosformer", dim=1)(x, torch.tensor([[position]])).flatten().double()
    angle = math.pi / 64 * (position % 128)  # the horizon is 32: a turn is 128 tokens
    expected = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    bound = max(torch.finfo(dtype).eps, 1e-12)  # of float64 the angle's own rounding, at 245, is more
    torch.testing.assert_close(found, expected, atol=bound, rtol=0)


def test_performer_is_unbiased(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The mean over draws tends to exp(q . k / sqrt(D)), within five standard errors."""
    q, k = (0.5 * x for x in pair)
    draws = torch.stack([weights(make("performer", seed=seed), q, k) for seed in range(400)])
    error = (draws.mean(0) - torch.exp(q @ k.T / 2)).abs()
    assert bool((error < 5 * draws.std(0) / 400**0.5).all())


@pytest.mark.parametrize("conv_size", [0, 6])
@pytest.mark.parametrize("feature_map", MAPS)
def test_every_linear_attention_with_and_without_augmentation(feature_map: str, conv_size: int) -> None:
    values = {"architecture": "linear", "vocab_size": 17, "width": 16, "pattern": "L", "num_heads": 2}
    model = make_model(parse_config(values | {"feature_map": feature_map, "conv_size": conv_size}))
    assert any(name.endswith("taps.weight") for name, _ in model.named_parameters()) == bool(conv_size)
    tokens = draw_tokens(2, 15)
    with torch.no_grad():
        expected = model(tokens)
        prompt, state = model.prefill(tokens[:, :7], model.init_state(2))
        block, state = model.prefill(tokens[:, 7:14], state)
        row, _ = model.step(tokens[:, 14], state)
    found = torch.cat([prompt, block, row[:, None]], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_t5_distances_fall_into_the_authors_buckets() -> None:
    bias = T5Bias(1)
    with torch.no_grad():
        bias.weight.copy_(torch.arange(32.0))
    distance = torch.arange(300)
    theirs = T5Attention._relative_position_bucket(-distance, bidirectional=False)  # type: ignore[no-untyped-call]
    found = bias()[0][distance.clamp(max=bias().shape[1] - 1)]
    assert found.tolist() == theirs.tolist()


def test_sinusoids() -> None:
    """sin and cos of p / 10000^(2i / D) (arXiv:1706.03762 sec. 3.5)."""
    angle = torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64)[:, None] / torch.tensor([1.0, 100.0])
    expected = torch.cat([angle.sin(), angle.cos()], dim=-1)
    found = sinusoids(torch.tensor([[0, 1, 7]]), 4, torch.float64)[0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
