"""The architectures that have names of their own: which mixers stand in them, and with which knobs."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Use(NamedTuple):
    """A mixer in a named architecture."""

    mixer: str
    defaults: Mapping[str, Any] = {}  # of knobs, where they differ from the mixer's own
    fixed: Mapping[str, Any] = {}  # what the architecture settles: no knobs of it


class Composition(NamedTuple):
    """What a name stands for."""

    about: str
    pattern: str
    mixers: Mapping[str, Use]  # letter -> mixer
    adopting: str  # the pattern with which it takes the place of attention, if nothing else is said
    mlp_bias: bool = False  # whether the channel mixer always has biases


SHORT_CONV = Use("short_conv")
_PLAIN = {"rotary_fraction": 1.0, "out_bias": False}  # attention as in everything but Griffin
_GRIFFIN = {"num_kv_heads": 1, "positions": "rope", "rotary_fraction": 0.5}
COMPOSED: Final = {
    "attention": Composition(
        "Global softmax attention (arXiv:2108.12409 with positions='alibi').",
        "CA",
        {"C": SHORT_CONV, "A": Use("attention", fixed=_PLAIN)},
        adopting="A",
    ),
    "window": Composition(
        "Sliding-window softmax attention.",
        "CW",
        {"C": SHORT_CONV, "W": Use("window", fixed=_PLAIN)},
        adopting="W",
    ),
    "hawk": Composition(
        "Hawk (arXiv:2402.19427): recurrent blocks only.",
        "CR",
        {"C": SHORT_CONV, "R": Use("rg_lru")},
        adopting="R",
        mlp_bias=True,
    ),
    "griffin": Composition(
        'Griffin (arXiv:2402.19427): recurrent blocks and local multi-query attention ("RRW" in the paper); '
        "A attends to all.",
        "CRW",
        {
            "C": SHORT_CONV,
            "R": Use("rg_lru"),
            "W": Use("window", defaults=_GRIFFIN, fixed={"out_bias": True}),
            "A": Use("attention", defaults=_GRIFFIN, fixed={"out_bias": True}),
        },
        adopting="RRW",
        mlp_bias=True,
    ),
    "based": Composition(
        "Based (arXiv:2402.18668): Taylor linear attention, sliding windows and gated short convolutions.",
        "CLW",
        {
            "C": SHORT_CONV,
            "L": Use("linear", defaults={"feature_map": "taylor", "feature_dim": 16}),
            "W": Use("window", defaults={"positions": "rope"}, fixed=_PLAIN),
            "B": Use("based_conv"),
        },
        adopting="LW",
    ),
}
HYBRID: Final = "hybrid"  # the architecture of any mixers
