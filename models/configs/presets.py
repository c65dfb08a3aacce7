"""Sizes that papers and released models use."""

from collections.abc import Callable
from typing import Any

from recallfront.models.configs import Architecture, parse_config

# width, recurrent width, layers, heads (arXiv:2402.19427 table 2)
_GRIFFIN_SIZES = {
    "100m": (768, 1024, 12, 6),
    "200m": (1024, 1536, 12, 8),
    "400m": (1536, 2048, 12, 12),
    "1.3b": (2048, 2560, 24, 16),
    "3b": (3072, 4096, 24, 24),
    "7b": (4096, 5632, 32, 32),
    "14b": (5120, 8192, 40, 40),
}
_GATE_BLOCKS = 16  # of the paper's models, whatever their number of heads
_BASED_LINEAR = {"360m": (1, 6, 11, 16, 21), "1.3b": (1, 6, 11, 16, 21, 27, 33)}
_BASED_SIZES = {"360m": (1024, 27), "1.3b": (1792, 36)}  # width, layers
_GPT2_VOCABULARY = 50264  # padded to a multiple of 8
_GEMMA_VOCABULARY = 256000


def _config(architecture: str, **settings: Any) -> Architecture:
    return parse_config({"architecture": architecture, **settings})


def _griffin(size: str) -> Architecture:
    width, lru_width, layers, heads = _GRIFFIN_SIZES[size]
    return _config(
        "griffin",
        vocab_size=_GEMMA_VOCABULARY,
        width=width,
        lru_width=lru_width,
        num_layers=layers,
        num_heads=heads,
        gate_blocks=_GATE_BLOCKS,
        pattern="RRW",
        window_size=1025,  # the released code's 1024, and the token itself
        mlp_expansion=3,
    )


def _hawk(size: str) -> Architecture:
    width, lru_width, layers, heads = _GRIFFIN_SIZES[size]
    return _config(
        "hawk",
        vocab_size=_GEMMA_VOCABULARY,
        width=width,
        lru_width=lru_width,
        num_layers=layers,
        num_heads=heads,
        gate_blocks=_GATE_BLOCKS,
        pattern="R",
        mlp_expansion=3,
    )


def _recurrentgemma(width: int, layers: int, heads: int) -> Architecture:
    return _config(
        "griffin",
        vocab_size=_GEMMA_VOCABULARY,
        width=width,
        num_layers=layers,
        num_heads=heads,
        pattern="RRW",
        window_size=2049,
        mlp_expansion=3,
        scale_embeddings=True,
        logits_soft_cap=30,
        lambda_init="recurrentgemma",
    )


def _based(size: str) -> Architecture:
    width, layers = _BASED_SIZES[size]
    linear = _BASED_LINEAR[size]
    pattern = "".join("L" if i in linear else "W" if i - 1 in linear else "B" for i in range(layers))
    return _config(
        "based",
        vocab_size=_GPT2_VOCABULARY,
        width=width,
        num_layers=layers,
        num_heads=16,
        pattern=pattern,
        feature_dim=16,
        window_size=129,
        mlp="swiglu",
        mlp_expansion=2,
        init_std=0.02,
    )


def _attention_360m() -> Architecture:
    """The transformer that Based is compared with (which turns half of each head's dimensions, here all)."""
    return _config(
        "attention",
        vocab_size=_GPT2_VOCABULARY,
        width=1024,
        num_layers=24,
        num_heads=16,
        pattern="A",
        positions="rope",
        mlp="swiglu",
        mlp_expansion=2.75,
        init_std=0.02,
    )


_PRESETS: dict[str, Callable[[], Architecture]] = {
    **{f"griffin-{size}": lambda size=size: _griffin(size) for size in _GRIFFIN_SIZES},  # type: ignore[misc]
    **{f"hawk-{size}": lambda size=size: _hawk(size) for size in _GRIFFIN_SIZES},  # type: ignore[misc]
    **{f"based-{size}": lambda size=size: _based(size) for size in _BASED_SIZES},  # type: ignore[misc]
    "recurrentgemma-2b": lambda: _recurrentgemma(2560, 26, 10),
    "recurrentgemma-9b": lambda: _recurrentgemma(4096, 38, 16),
    "attention-360m": _attention_360m,
}

PRESETS = tuple(_PRESETS)


def preset(name: str) -> Architecture:
    """The configuration called `name`, one of `PRESETS`. Raises ValueError if there is none."""
    if name not in _PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return _PRESETS[name]()
