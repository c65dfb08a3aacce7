"""The layers of KDA, RWKV-7 and HGRN2 against their papers' equations, a token and a head at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recallfront.models.mixers.base import Mixer
from recallfront.models.mixers.hgrn2 import HGRN2Config
from recallfront.models.mixers.kda import KDAConfig
from recallfront.models.mixers.rwkv7 import RWKV7Config
from recallfront.models.parts.state import Block, Layout, Step
from tests.golden import make_baseline_mixers as script
from tests.kernels.golden import difference, load_golden

Weights = dict[str, Tensor]
SIZES: dict[str, Any] = {"width": script.WIDTH, "num_heads": script.HEADS}


def kda(w: Weights) -> tuple[Mixer, Weights]:
    mixer = KDAConfig(**SIZES, state_dim=script.KEYS, conv_size=script.TAPS, gate_rank=script.RANK).build()
    return mixer, {
        "qkv.weight": torch.cat([w[f"W_{name}"] for name in "qkv"]),
        "conv.taps": torch.cat([w[f"conv_{name}"] for name in "qkv"]),
        "conv.bias": torch.zeros(2 * script.HEADS * script.KEYS + script.WIDTH, dtype=torch.float64),
        "beta.weight": w["W_beta"],
        "channel_decay.down.weight": w["W_alpha_down"],
        "channel_decay.up.weight": w["W_alpha_up"],
        "channel_decay.bias": w["dt_bias"],
        "channel_decay.log_rate": w["A_log"],
        "low_rank_gate.0.weight": w["W_gate_down"],
        "low_rank_gate.1.weight": w["W_gate_up"],
        "low_rank_gate.1.bias": w["b_gate"],
        "norm.scale": w["norm"] - 1,
        "out.weight": w["W_o"],
    }


def rwkv7(w: Weights) -> tuple[Mixer, Weights]:
    ranks: dict[str, Any] = {"decay_rank": script.RANK, "rate_rank": script.RANK, "gate_rank": script.RANK}
    return RWKV7Config(**SIZES, **ranks).build(), {
        "shift.mix": torch.cat([w[f"mu_{stream}"] for stream in ("r", "d", "k", "v", "a", "g")]),
        "vectors.decay": w["d0"],
        "vectors.rate": w["a0"],
        "vectors.removal": w["xi"],
        "vectors.replacement": w["alpha"],
        "vectors.bonus": w["rho"],
        "receptance.weight": w["W_r"],
        "key.weight": w["W_k"],
        "value.weight": w["W_v"],
        "out.weight": w["W_o"],
        "norm.weight": w["norm_gain"],
        "norm.bias": w["norm_bias"],
    } | {
        f"{ours}.{way}.weight": w[f"{theirs}{place}"]
        for ours, theirs in (("decay", "D"), ("rate", "A"), ("gate", "G"))
        for way, place in (("down", 1), ("up", 2))
    }


def hgrn2(w: Weights) -> tuple[Mixer, Weights]:
    return HGRN2Config(**SIZES, state_dim=script.KEYS, lower_bound=0.5).build(), {
        "inputs.weight": torch.cat([w["W_o_gate"], w["W_f"], w["W_i"]]),
        "bound.logit": torch.logit(w["bound"]),
        "norm.scale": w["norm"] - 1,
        "out.weight": w["W_o"],
    }


LAYERS: dict[str, Callable[[Weights], tuple[Mixer, Weights]]] = {"kda": kda, "rwkv7": rwkv7, "hgrn2": hgrn2}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_the_papers_equations(name: str, dtype: torch.dtype, tolerance: float) -> None:
    golden = load_golden(f"{name}_mixer")
    mixer, weights = LAYERS[name](golden)
    mixer.to(torch.float64).load_state_dict(weights)
    mixer.to(dtype)
    x, expected = golden["x"].to(dtype)[None], golden["out"][None]
    with torch.no_grad():
        assert difference(mixer(x, Layout(None, x.shape[1])), expected) < tolerance
        state = mixer.init_state(1, x.device, dtype)
        block = Block(torch.tensor([0]), 0, 4)
        parts = [mixer.extend(x[:, :4], state, block)]
        for place in range(4, x.shape[1]):
            step = Step(torch.tensor([place]), place)
            parts.append(mixer.step(x[:, place], state, step)[:, None])
        assert difference(torch.cat(parts, dim=1), expected) < tolerance


@pytest.mark.parametrize("name", LAYERS)
def test_arrays_are_those_that_the_script_makes(name: str) -> None:
    golden = load_golden(f"{name}_mixer")
    x, weights = script.draw(name)
    assert all(torch.equal(torch.from_numpy(value), golden[key]) for key, value in weights.items())
    torch.testing.assert_close(torch.from_numpy(script.LAYERS[name](x, weights)), golden["out"])
