"""Parameters and operations: by formula and by count; the presets' sizes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recallfront.models import build, parse_config
from recallfront.models.configs.presets import PRESETS, preset
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
    mixing = sum(config.layer_mixing_flops(letter, 1) for letter in config.layers)
    matrices = 2 * (config.forward_flops(1) - mixing)  # two rows
    assert matrices <= counter.get_total_flops()


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
        ("griffin-100m", None, None),
        ("recurrentgemma-2b", 2.68, 8_572_928),  # state sizes: executed on the released code
        ("griffin-7b", None, 3_117_056),
        ("hawk-7b", None, 720_896),
        ("based-360m", 0.36, 795_600 + 1_310_720 + 69_632),
    ],
)
def test_presets(name: str, billions: float | None, state_elements: int | None) -> None:
    config = preset(name)
    if billions is not None:
        assert config.parameter_count() / 1e9 == pytest.approx(billions, rel=0.03)
    if state_elements is not None:
        assert config.state_elements(8192) == state_elements


def test_every_preset_can_be_built() -> None:
    with torch.device("meta"):
        for name in PRESETS:
            assert preset(name).parameter_count() > 5e7
    with pytest.raises(ValueError, match="there is no preset 'gpt-5'; there are griffin-100m"):
        preset("gpt-5")
