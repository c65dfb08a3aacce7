"""Other mixers in the place of softmax attention: what a pretrained model keeps, and what starts anew."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from recallfront.models.building import build
from recallfront.models.configs import Architecture
from recallfront.models.configs.baselines import MatrixStateConfig
from recallfront.models.configs.linear import FeatureKnobs
from recallfront.models.configs.recurrent import RecurrentKnobs
from recallfront.models.configs.softmax import AttentionConfig, AttentionKnobs
from recallfront.models.language_model import LanguageModel

_LETTERS = "GLRSWA"  # mixers that can take something of attention
_OF_MIXERS = {"architecture", "pattern", "short_conv_size", "init_std", "mlp_expansion"}
_KEYS = {"q", "k"}  # of use only together


class Linearized(NamedTuple):
    """A model, and the names of its parameters that are new, whole or in part."""

    model: LanguageModel
    new: list[str]


class Rows(NamedTuple):
    """Rows of a projection: so many heads, and numbers a head."""

    heads: int
    dim: int


def adopt(source: LanguageModel, config: Architecture, seed: int = 0) -> Linearized:
    """A model of `config` with the weights of `source`, whose layers are all attention.

    Queries, keys, values and the way out are kept where heads have the same width, key heads repeated where queries
    share them; a recurrent block's inner branch takes the values, as in arXiv:2408.15237. A convolution after them
    starts as the identity (arXiv:2408.10189), everything else as in `build`. Raises ValueError where the two models
    do not fit together, or a layer would keep nothing of its attention.
    """
    theirs = attention_config(source)
    _check_fits(config, theirs)
    model = build(config, seed).to(source.embedding.weight.dtype)
    old, new = (
        source.state_dict(),
        model.state_dict(),
    )  # views of the parameters: what is copied into them stays
    kept = {name for name in old if ".mixer." not in name}
    for name in kept:
        new[name].copy_(old[name])
    for index, letter in enumerate(config.layers):
        prefix = f"layers.{index}.mixer."
        names = _adopt_mixer(_below(prefix, new), _below(prefix, old), config, letter, theirs)
        kept |= {prefix + name for name in names}
    return Linearized(model, [name for name, _ in model.named_parameters() if name not in kept])


def attention_config(source: LanguageModel) -> AttentionConfig:
    """The configuration of a model that can be linearized. Raises ValueError for any other."""
    config = source.config
    if not isinstance(config, AttentionConfig) or set(config.layers) != {"A"}:
        raise ValueError(
            f"the model is {config.architecture} {config.layers!r}; only attention in every layer "
            "can be linearized"
        )
    return config


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}


def _check_fits(config: Architecture, theirs: AttentionConfig) -> None:
    for letter in config.layers:
        if letter not in _LETTERS:
            raise ValueError(
                f"pattern is {config.pattern!r}, and {letter} has nothing to take of attention; "
                "G, L, R, S, W and A have"
            )
    names = [name for name in Architecture.model_fields if name not in _OF_MIXERS] + ["mlp_width"]
    if isinstance(config, AttentionKnobs) and set(config.layers) & {"A", "W"}:
        names += ["positions", "rotary_dim", "kv_heads"]  # it stays attention
    for name in names:
        ours, wanted = getattr(config, name), getattr(theirs, name)
        if ours != wanted:
            raise ValueError(
                f"{name} is {ours!r}, and {wanted!r} in the model that is linearized; they must agree"
            )
    if theirs.positions == "sinusoidal" != getattr(config, "positions", None):
        raise ValueError(
            "the model's positions='sinusoidal' are added to the embeddings, "
            f"which {config.architecture} has not"
        )


def _adopt_mixer(
    mine: dict[str, Tensor],
    attention: dict[str, Tensor],
    config: Architecture,
    letter: str,
    theirs: AttentionConfig,
) -> set[str]:
    """Copy what fits of a layer's attention into its new mixer's parameters; the names of those that are kept whole."""
    name, rows = _projection(config, letter)
    given = {"q": Rows(theirs.num_heads, theirs.head_dim)}
    given |= dict.fromkeys("kv", Rows(theirs.kv_heads, theirs.head_dim))
    fitting = {
        role
        for role in rows.keys() & given.keys()
        if rows[role].dim == given[role].dim and rows[role].heads % given[role].heads == 0
    }
    if not _KEYS <= fitting:
        fitting -= _KEYS
    if not fitting:
        raise ValueError(
            f"{config.architecture} keeps nothing of the attention: {_what_hinders(config, letter)}"
        )
    kept = set()
    for part in ("weight", "bias"):
        if f"qkv.{part}" not in attention:
            continue
        old = _split(attention[f"qkv.{part}"], given)
        new = _split(mine[f"{name}.{part}"], rows)
        for role in fitting:
            new[role].copy_(old[role].repeat_interleave(rows[role].heads // given[role].heads, dim=0))
        kept |= {f"{name}.{part}"} if fitting == rows.keys() else set()
    same = (
        {other for other in attention if not other.startswith(("qkv.", "out."))} if letter in "AW" else set()
    )
    same |= {other for other in attention if other.startswith("out.") and "v" in fitting}
    for other in same:
        mine[other].copy_(attention[other])
    _start_convolution(mine)
    return kept | same


def _projection(config: Architecture, letter: str) -> tuple[str, dict[str, Rows]]:
    """The map that reads the residual stream, and whose its rows are, in their order."""
    heads, dim = config.num_heads, config.head_dim
    keys = values = Rows(heads, dim)
    if letter in "AW" and isinstance(config, AttentionKnobs):
        shared = Rows(config.kv_heads, dim)
        return "qkv", {"q": keys, "k": shared, "v": shared}
    if letter == "R" and isinstance(config, RecurrentKnobs):
        lru = config.recurrent_width
        inner = {"v": values} if lru == config.width else {"inner": Rows(1, lru)}
        return "branches", {"gate": Rows(1, lru)} | inner
    if letter == "L" and isinstance(config, FeatureKnobs):
        keys = Rows(heads, config.key_dim)
    if letter == "S" and isinstance(config, MatrixStateConfig):
        keys, values = Rows(config.key_heads, config.keys), Rows(heads, config.values)
    return "qkv", {"q": keys, "k": keys, "v": values}


def _what_hinders(config: Architecture, letter: str) -> str:
    if isinstance(config, MatrixStateConfig):
        return (
            f"value_expansion is {config.value_expansion}, with 1 values and the way out fit; keys are "
            f"{config.key_heads} x {config.keys} wide, queries and keys fit as {config.num_heads} x {config.head_dim}"
        )
    assert isinstance(config, RecurrentKnobs) and letter == "R"  # the others' values always fit
    return f"lru_width is {config.recurrent_width}; values and the way out fit where it is {config.width}"


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
