"""Other mixers in the place of softmax attention: what a pretrained model keeps, and what starts untrained."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from recallfront.models.building import build
from recallfront.models.configs import Architecture
from recallfront.models.configs.mixer import MixerConfig, Rows
from recallfront.models.language_model import LanguageModel
from recallfront.models.mixers.attention import AttentionConfig

# settings that the two models need not share
_FREE = {"architecture", "pattern", "init_std", "init_depth_scaling", "embedding_dropout", "mlp_expansion"}
_KEYS = {"q", "k"}  # of use only together


class Linearized(NamedTuple):
    """A model, and the names of its parameters that are new, whole or in part."""

    model: LanguageModel
    new: list[str]


def adopt(source: LanguageModel, config: Architecture, seed: int = 0) -> Linearized:
    """A model of `config` with the weights of `source`, whose layers are all attention.

    Queries, keys, values and the way out are kept where heads have the same width, key heads repeated where queries
    share them; a recurrent block's inner branch takes the values, as in arXiv:2408.15237. A convolution after them
    starts as the identity (arXiv:2408.10189), everything else as in `build`. Raises ValueError if the two models
    do not fit together, or a layer would keep nothing of its attention.
    """
    attention = attention_of(source)
    _check_fits(config, source.config, attention)
    model = build(config, seed).to(source.embedding.weight.dtype)
    # views of the parameters: what is copied into them stays
    old, new = source.state_dict(), model.state_dict()
    kept = {name for name in old if ".mixer." not in name}
    for name in kept:
        new[name].copy_(old[name])
    for index, letter in enumerate(config.layers):
        prefix = f"layers.{index}.mixer."
        names = _adopt_mixer(_below(prefix, new), _below(prefix, old), config.mixer(letter), attention)
        kept |= {prefix + name for name in names}
    return Linearized(model, [name for name, _ in model.named_parameters() if name not in kept])


def attention_of(source: LanguageModel) -> AttentionConfig:
    """The one mixer of a model that can be linearized. Raises ValueError for any other model."""
    config = source.config
    mixer, *others = (mixer for _, mixer, _ in config.mixers_used)
    if others or type(mixer) is not AttentionConfig:
        raise ValueError(
            f"the model is {config.architecture} {config.layers!r}; only attention in every layer "
            "can be linearized"
        )
    return mixer


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}


def _check_fits(config: Architecture, theirs: Architecture, attention: AttentionConfig) -> None:
    for letter, mixer, _ in config.mixers_used:
        if mixer.projection() is None:
            raise ValueError(
                f"pattern is {config.pattern!r}, and {letter} ({mixer.name()}) has nothing to take of attention"
            )
    for name in [*(name for name in Architecture.model_fields if name not in _FREE), "mlp_width"]:
        _check_agree(name, getattr(config, name), getattr(theirs, name))
    for _, mixer, _ in config.mixers_used:
        for name in mixer.must_agree(attention):
            _check_agree(name, getattr(mixer, name), getattr(attention, name))
    if theirs.mlp_bias and theirs.mlp_width and not config.mlp_bias:
        raise ValueError(
            f"the model's channel mixers have biases, and {config.architecture}'s have none; a hybrid has them "
            "with mlp_biases: true"
        )
    if theirs.adds_sinusoids and not config.adds_sinusoids:
        raise ValueError(
            "the model's positions='sinusoidal' are added to the embeddings, "
            f"which {config.architecture} has not"
        )


def _check_agree(name: str, ours: object, wanted: object) -> None:
    # a number that a file holds in 32 bits is the one that a specification spells
    alike = isinstance(ours, float) and isinstance(wanted, float) and math.isclose(ours, wanted, rel_tol=1e-6)
    if ours != wanted and not alike:
        raise ValueError(
            f"{name} is {ours!r}, and {wanted!r} in the model that is linearized; they must agree"
        )


def _adopt_mixer(
    mine: dict[str, Tensor], old: dict[str, Tensor], mixer: MixerConfig, attention: AttentionConfig
) -> set[str]:
    """Copy what fits of a layer's attention into its new mixer's parameters; the names of those that are kept whole."""
    projection = mixer.projection()
    assert projection is not None
    name, rows = projection
    given = attention.projection().rows
    fitting = {
        role
        for role in rows.keys() & given.keys()
        if rows[role].dim == given[role].dim and rows[role].heads % given[role].heads == 0
    }
    if not _KEYS <= fitting:
        fitting -= _KEYS
    if not fitting:
        raise ValueError(f"{mixer.name()} keeps nothing of the attention: {mixer.hindrance()}")
    kept = set()
    for part in ("weight", "bias"):
        if f"qkv.{part}" not in old:
            continue
        theirs = _split(old[f"qkv.{part}"], given)
        new = _split(mine[f"{name}.{part}"], rows)
        for role in fitting:
            new[role].copy_(theirs[role].repeat_interleave(rows[role].heads // given[role].heads, dim=0))
        kept |= {f"{name}.{part}"} if fitting == rows.keys() else set()
    same = {other for other in old if not other.startswith(("qkv.", "out.")) and other in mine}
    same |= {other for other in old if other.startswith("out.") and "v" in fitting}
    if same - mine.keys():
        raise ValueError(f"{mixer.name()} has no bias in its way out, and the model's attention has one")
    for other in same:
        mine[other].copy_(old[other])
    _start_convolution(mine)
    return kept | same


def _split(weights: Tensor, parts: Mapping[str, Rows]) -> dict[str, Tensor]:
    """Views (heads, numbers a head, ...) of a projection's rows."""
    pieces = weights.split([rows.heads * rows.dim for rows in parts.values()])
    return {
        role: piece.view(*rows, *weights.shape[1:])
        for (role, rows), piece in zip(parts.items(), pieces, strict=True)
    }


def _start_convolution(mine: dict[str, Tensor]) -> None:
    """A convolution after the projections passes on what they give (a matrix state's to its SiLU) until it learns."""
    if "conv.taps" in mine:
        mine["conv.taps"].copy_(torch.zeros_like(mine["conv.taps"]))
        mine["conv.taps"][:, -1] = 1
        mine["conv.bias"].zero_()
