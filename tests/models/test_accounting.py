"""Parameters and operations: by formula and by count; the presets' sizes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recallfront.models import build, parse_config
from recallfront.models.building import assemble
from recallfront.models.configs.presets import PRESETS, preset
from recallfront.models.mixers import registry
from tests.models.cases import CASES, case_config, draw_tokens


def in_place_flops(out: torch.Size, a: torch.Size, b: torch.Size, **_: object) -> int:
    """Of addmm_, which the counter does not know."""
    return 2 * a[0] * a[1] * b[1]


IN_PLACE = {torch.ops.aten.addmm_: in_place_flops}


@pytest.mark.parametrize("name", CASES)
def test_parameters(name: str) -> None:
    config = case_config(name)
    assert build(config).parameter_count() == config.parameter_count()


@pytest.mark.parametrize("name", CASES)
def test_matrix_products(name: str) -> None:
    """A decode step multiplies by each matrix once: what it takes beyond that is mixing."""
    config = case_config(name)
    model = build(config)
    state = model.init_state(2)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        model.step(draw_tokens(2, 1)[:, 0], state)
    mixing = sum(config.mixer(letter).mixing_flops(1) for letter in config.layers)
    matrices = 2 * (config.forward_flops(1) - mixing)  # two rows
    assert matrices <= counter.get_total_flops()
    products = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim >= 2)
    aside = ("taps", "taps.weight", "t5_bias.weight", "position_table.weight", "lru.bias")
    products -= sum(p.numel() for key, p in model.named_parameters() if p.ndim >= 2 and key.endswith(aside))
    if not config.tied_embeddings:  # looked up, not multiplied by
        products -= model.embedding.weight.numel()
    assert matrices == 2 * 2 * products


# Ten tokens, two heads of 8. A multiply-add is two operations; each entry of a matrix state takes one to decay, to
# be read for a correction, to be corrected, to be added to and to be read, as far as the equation has these.
_PAIR = 2 * 16 + 2 * 16  # of a query and a key: their product, and the value's share
MIXING: dict[str, list[tuple[dict[str, object], int]]] = {
    "attention": [({"positions": "none"}, 55 * _PAIR)],  # 1 + 2 + ... + 10
    "window": [({"window_size": 4}, (1 + 2 + 3 + 7 * 4) * _PAIR)],
    "linear": [  # features x (values and their sum), written and read
        ({"feature_map": "elu", "feature_dim": 3}, 10 * 2 * 2 * 2 * 3 * 9),
        ({"feature_map": "taylor", "feature_dim": 3}, 10 * 2 * 2 * 2 * (1 + 3 + 6) * 9),
        ({"feature_map": "elu", "feature_dim": 3, "conv_size": 4}, 10 * 2 * 2 * 2 * 3 * 9 + 10 * 2 * 4 * 16),
    ],
    "grouped": [  # pairs within two groups of four and one of two; then the state, and three taps
        ({"group_size": 4, "conv_size": 3}, (10 + 10 + 3) * _PAIR + 10 * 2 * 2 * 2 * 8 * 8 + 10 * 2 * 3 * 16),
    ],
    "gla": [({"state_dim": 6, "value_expansion": 1, "conv_size": 1}, 10 * 3 * 2 * 6 * 16)],
    "retnet": [({"state_dim": 6, "value_expansion": 2, "conv_size": 1}, 10 * 3 * 2 * 6 * 32)],
    "mamba2": [  # taps over queries and keys, which both heads share, and values
        (
            {"state_dim": 6, "value_expansion": 1, "conv_size": 3},
            10 * (3 * 2 * 6 * 16 + 2 * 3 * (6 + 6 + 16)),
        ),
    ],
    "deltanet": [({"state_dim": 6, "value_expansion": 1, "conv_size": 1}, 10 * 3 * 2 * 6 * 16)],
    "gated_deltanet": [({"state_dim": 6, "value_expansion": 1, "conv_size": 1}, 10 * 4 * 2 * 6 * 16)],
    "kda": [({"state_dim": 6, "value_expansion": 1, "conv_size": 1}, 10 * 4 * 2 * 6 * 16)],
    "rwkv7": [({}, 10 * 5 * 2 * 8 * 16)],
    "hgrn2": [({"state_dim": 6}, 10 * 3 * 2 * 6 * 16)],
    # taps, and the step of the recurrence
    "rg_lru": [({"lru_width": 24, "conv_size": 4}, 10 * 2 * (4 + 1) * 24)],
    "short_conv": [({"short_conv_size": 3}, 10 * 2 * 3 * 16)],
    "based_conv": [({"short_conv_size": 3, "conv_expansion": 4}, 10 * 2 * 3 * 64)],
}


@pytest.mark.parametrize("mixer", registry.names())
def test_mixing_takes_what_the_equation_says(mixer: str) -> None:
    """Also beside attention, in a hybrid: the operations beyond its matrices are those of both."""
    for knobs, by_hand in MIXING[mixer]:
        mixers = {"X": {"mixer": mixer} | knobs, "A": {"mixer": "attention", "positions": "none"}}
        shared = {"vocab_size": 17, "width": 16, "num_heads": 2}
        config = parse_config({"architecture": "hybrid", "mixers": mixers, "pattern": "XA"} | shared)
        assert config.mixer("X").mixing_flops(10) == by_hand, knobs
        matrices = config.forward_flops(1) - config.mixer("X").mixing_flops(1) - _PAIR
        assert config.forward_flops(10) - 10 * matrices == by_hand + 55 * _PAIR, knobs


@pytest.mark.parametrize("width", [64, 128])
def test_an_attention_model_takes_what_is_counted(width: int) -> None:
    config = parse_config(
        {"architecture": "attention", "vocab_size": 32, "width": width, "positions": "none", "pattern": "A"}
    )
    model, state = build(config), build(config).init_state(1)
    # the counter knows attention only as matrix products
    counting = FlopCounterMode(display=False, custom_mapping=IN_PLACE)
    with sdpa_kernel(SDPBackend.MATH), counting as counter:
        for column in draw_tokens(1, 9).unbind(1):
            _, state = model.step(column, state)
    assert counter.get_total_flops() == config.forward_flops(9)


@pytest.mark.parametrize(
    ("name", "billions", "state_elements"),
    [
        ("recurrentgemma-2b", 2.68, 8_572_928),  # state sizes: executed on the released code
        ("recurrentgemma-9b", 8.6, None),
        ("griffin-7b", None, 3_117_056),
        ("hawk-7b", None, 720_896),
        ("based-360m", 0.36, 795_600 + 1_310_720 + 69_632),
        ("based-1.3b", 1.35, None),
    ],
)
def test_presets(name: str, billions: float | None, state_elements: int | None) -> None:
    config = preset(name)
    if billions is not None:
        assert config.parameter_count() / 1e9 == pytest.approx(billions, rel=0.03)
    if state_elements is not None:
        assert config.state_elements(8192) == state_elements


def test_states_as_their_authors_hold_them() -> None:
    """Each product of two Taylor features twice: executed on Based's code."""
    config = preset("based-360m")
    assert config.materialised_state_elements(8192) == 1_419_600 + 1_310_720 + 69_632
    elu = parse_config({"architecture": "linear", "vocab_size": 8})
    assert elu.materialised_state_elements(100) == elu.state_elements(100)


@pytest.mark.parametrize("size", ["100m", "200m", "400m", "1.3b", "3b", "7b", "14b"])
@pytest.mark.parametrize("architecture", ["hawk", "griffin"])
def test_sizes_of_the_paper(architecture: str, size: str) -> None:
    """Without the embedding they have about the size of their name (arXiv:2402.19427 table 2)."""
    config = preset(f"{architecture}-{size}")
    named = float(size[:-1]) * (1e6 if size[-1] == "m" else 1e9)
    assert config.parameter_count() - config.vocab_size * config.width == pytest.approx(named, rel=0.2)


def test_every_preset_can_be_built() -> None:
    with torch.device("meta"):
        for name in PRESETS:
            config = preset(name)
            parameters = assemble(config.model_copy(update={"num_layers": 3})).parameter_count()
            assert parameters == config.model_copy(update={"num_layers": 3}).parameter_count()
    with pytest.raises(ValueError, match="there is no preset 'gpt-5'; there are griffin-100m"):
        preset("gpt-5")
