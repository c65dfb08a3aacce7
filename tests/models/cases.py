"""The configurations that the contract is tested on, with knobs that make every boundary near."""

from importlib.util import find_spec

import torch
from torch import Tensor

from recallfront.models import Architecture, LanguageModel, build, parse_config

WINDOW, GROUP, TAPS = 5, 4, 6

CASES: dict[str, dict[str, object]] = {
    "attention": {"num_heads": 4, "num_kv_heads": 2},
    "attention-rope": {"architecture": "attention", "positions": "rope", "num_heads": 2, "num_kv_heads": 1},
    "attention-sinusoidal": {"architecture": "attention", "positions": "sinusoidal"},
    "attention-none": {"architecture": "attention", "positions": "none", "tied_embeddings": False},
    "attention-3-heads": {"architecture": "attention", "num_heads": 3, "width": 24, "norm": "layer"},
    "attention-t5": {"architecture": "attention", "positions": "t5", "num_heads": 4, "num_kv_heads": 2},
    "window-t5": {"architecture": "window", "positions": "t5", "window_size": WINDOW},
    "window": {"window_size": WINDOW, "num_heads": 2, "mlp_expansion": 2, "mlp": "swiglu"},
    "window-rope": {"architecture": "window", "window_size": WINDOW, "positions": "rope"},
    "window-1": {"architecture": "window", "window_size": 1},
    "hawk": {"num_heads": 2, "mlp_expansion": 3, "logits_soft_cap": 5.0},
    "hawk-wide": {"architecture": "hawk", "pattern": "R", "num_heads": 2, "lru_width": 24},
    "griffin": {"window_size": WINDOW, "pattern": "RRW", "num_heads": 2, "mlp_expansion": 3},
    "griffin-global": {
        "architecture": "griffin",
        "pattern": "RA",
        "scale_embeddings": True,
        "rotary_fraction": 1,
    },
    "based": {"window_size": WINDOW, "feature_dim": 3, "num_heads": 2, "mlp": "gelu", "mlp_expansion": 1},
    "grouped": {"group_size": GROUP, "conv_size": TAPS, "num_heads": 2, "positions": "rope"},
    "mamba2": {"num_heads": 2, "state_dim": 5, "conv_size": 3},
    "mamba2-groups": {"architecture": "mamba2", "num_heads": 4, "num_groups": 2, "biases": True},
    "gated_deltanet": {"num_heads": 2, "state_dim": 6},
    "deltanet": {"num_heads": 2},
    "gla": {"num_heads": 2, "gate_rank": 3},
    "retnet": {"num_heads": 2, "state_dim": 4},
    "retnet-conv": {"architecture": "retnet", "pattern": "S", "conv_size": 3, "value_expansion": 1},
    "kda": {"num_heads": 2, "state_dim": 6, "conv_size": 3},
    "kda-plain": {
        "architecture": "kda",
        "pattern": "K",
        "conv_size": 1,
        "gate_rank": 3,
        "value_expansion": 2,
    },
    "rwkv7": {"num_heads": 2, "decay_rank": 3},
    "rwkv7-biases": {"architecture": "rwkv7", "pattern": "V", "biases": True},
    "hgrn2": {"num_heads": 2},
    "hgrn2-bound": {"architecture": "hgrn2", "pattern": "H", "lower_bound": 0.3, "state_dim": 5},
    "based-language": {"architecture": "based", "pattern": "BLWBB", "window_size": WINDOW, "feature_dim": 2},
    "hawk-blocks": {"architecture": "hawk", "gate_blocks": 4, "lru_width": 12, "mlp_expansion": 0.5},
    "attention-gpt": {"architecture": "attention", "biases": True, "learned_positions": 64, "mlp": "gelu"},
    "grouped-biases": {"architecture": "grouped", "biases": True, "rope_theta": 500.0, "positions": "rope"},
    "linear-biases": {"architecture": "linear", "biases": True, "learned_positions": 64, "mlp_expansion": 1},
    "linear": {"num_heads": 2},
    "linear-augmented": {"architecture": "linear", "num_heads": 2, "conv_size": TAPS, "feature_dim": 5},
    "linear-relu": {"architecture": "linear", "feature_map": "relu"},
    "linear-square": {"architecture": "linear", "feature_map": "square", "feature_dim": 4},
    "linear-taylor": {"architecture": "linear", "feature_map": "taylor", "feature_dim": 2, "conv_size": 1},
    "linear-cosformer": {"architecture": "linear", "feature_map": "cosformer", "horizon": 64, "pattern": "L"},
    "linear-performer": {"architecture": "linear", "feature_map": "performer", "random_features": 9},
    "linear-hedgehog": {"architecture": "linear", "feature_map": "hedgehog", "num_heads": 4},
    "based-performer": {"architecture": "based", "feature_map": "performer", "feature_dim": None},
    "attention-zoology": {"architecture": "attention", "mlp": "identity", "norm": "layer", "biases": True},
    "based-identity": {"architecture": "based", "mlp": "identity", "window_size": WINDOW, "feature_dim": 3},
    "grouped-plain": {"architecture": "grouped", "group_size": 1, "conv_size": 0},
}

if find_spec("hypothesis") is not None:  # `make gpu` does without
    from tests.models.hybrids import drawn_hybrids

    CASES |= {f"hybrid-{number}": values for number, values in enumerate(drawn_hybrids(22))}

# 1, K - 1, K, W, W + 1, G - 1, G, G + 1, 2G + 3 and lengths well past them
LENGTHS = (1, 2, 3, 4, 5, 6, 11, 23)


def case_config(name: str) -> Architecture:
    """The configuration of a case, small."""
    return parse_config({"architecture": name, "vocab_size": 17, "width": 16} | CASES[name])


def make_model(config: Architecture, dtype: torch.dtype = torch.float64, seed: int = 0) -> LanguageModel:
    """A model with all parameters moved off special values (0, 1), so that none hides a mistake."""
    model = build(config, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype), alpha=0.1)
    return model


def draw_tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    """Random tokens (B, T)."""
    return torch.randint(0, 17, (batch, time), generator=torch.Generator().manual_seed(seed))
