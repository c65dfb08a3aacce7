import pytest
import torch

from recallfront.kernels.rg_lru.reference import _Root
from recallfront.models import build, parse_config
from recallfront.models.configs.presets import preset
from recallfront.models.language_model import Embedding
from recallfront.models.mixers.gated_deltanet import GatedDeltaNet
from recallfront.models.mixers.gla import GatedLinearAttention
from recallfront.models.mixers.grouped import GroupedAttention
from recallfront.models.mixers.hgrn2 import HGRN2
from recallfront.models.mixers.kda import KimiDeltaAttention
from recallfront.models.mixers.mamba2 import Mamba2
from recallfront.models.mixers.retnet import fixed_decay
from recallfront.models.mixers.rg_lru import RecurrentBlock
from recallfront.models.mixers.rwkv7 import TimeMixing
from recallfront.models.parts.layers import Linear


@pytest.mark.parametrize("lambda_init", ["paper", "recurrentgemma"])
def test_decays_start_in_their_ring(lambda_init: str) -> None:
    config = parse_config(
        {"architecture": "hawk", "vocab_size": 8, "width": 1024, "pattern": "R", "lambda_init": lambda_init}
    )
    block = build(config).layers[0].mixer
    assert isinstance(block, RecurrentBlock)
    log_a = -torch.nn.functional.softplus(block.lru.p.detach().double())
    ring = torch.exp(8 * log_a if lambda_init == "paper" else log_a)
    assert 0.9 - 1e-6 < float(ring.min()) < 0.905
    assert 0.995 < float(ring.max()) < 0.999 + 1e-6


def test_the_gradient_at_a_decay_of_one_is_finite() -> None:
    config = parse_config({"architecture": "hawk", "vocab_size": 8, "width": 8, "pattern": "R"})
    model = build(config)
    block = model.layers[0].mixer
    assert isinstance(block, RecurrentBlock)
    with torch.no_grad():
        block.lru.p.fill_(-200.0)  # softplus underflows: a = 1 exactly
    torch.autograd.backward(model(torch.zeros(1, 6, dtype=torch.long)).sum())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_the_slope_of_the_root_is_at_most_1000() -> None:
    """As in the released code: 1 / (2 sqrt x), cut (the forms of the operator are held to this definition)."""
    x = torch.tensor([0.0, 1e-12, 1e-4, 0.25], dtype=torch.float64, requires_grad=True)
    root = _Root.apply(x)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(root.detach(), x.detach().sqrt())
    (slope,) = torch.autograd.grad(root.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([1000.0, 1000.0, 50.0, 1.0], dtype=torch.float64))


def test_projections_are_scaled_by_their_inputs() -> None:
    config = parse_config({"architecture": "griffin", "vocab_size": 64, "width": 256, "pattern": "RRW"})
    model = build(config)
    assert float(model.embedding.weight.detach().std()) == pytest.approx(256**-0.5, rel=0.05)
    out = model.layers[0].mixer.out.weight.detach()  # type: ignore[union-attr, operator]
    assert float(out.std()) == pytest.approx((2 / 3 / 256) ** 0.5, rel=0.05)


def test_one_standard_deviation_for_all_matrices() -> None:
    """Based: 0.02, and over sqrt(2 layers) back to the residual stream."""
    values = {"architecture": "based", "vocab_size": 64, "width": 256, "pattern": "BLW", "mlp_expansion": 2}
    model = build(parse_config(values | {"init_std": 0.02}))
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, Linear | Embedding):
            expected = 0.02 / 6**0.5 if name.endswith((".out", ".down")) else 0.02
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05), name
            seen.add(name.rpartition(".")[2])
    assert seen == {"embedding", "branches", "out", "qkv", "up", "down"}
    assert preset("based-360m").init_std == 0.02


@pytest.mark.parametrize("architecture", ["gla", "kda", "rwkv7"])
def test_low_rank_maps_within_a_mixer_are_none_to_the_residual_stream(architecture: str) -> None:
    model = build(
        parse_config({"architecture": architecture, "vocab_size": 9, "width": 128, "init_std": 0.02})
    )
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    inner = [name for name in modules if name.endswith(".down")]
    assert inner and all(modules[name].std == 0.02 for name in inner), inner
    assert modules["layers.1.mixer.out"].std == 0.02 / 4**0.5


@pytest.mark.parametrize("architecture", ["mamba2", "gated_deltanet"])
def test_selective_decays_start_as_in_mamba2(architecture: str) -> None:
    """A uniform in [1, 16], dt log-uniform in [0.001, 0.1] (arXiv:2405.21060)."""
    values = {"architecture": architecture, "vocab_size": 8, "width": 512, "num_heads": 512, "pattern": "S"}
    block = build(parse_config(values)).layers[0].mixer
    assert isinstance(block, Mamba2 | GatedDeltaNet)
    rate = block.selective.log_rate.detach().exp()
    dt = torch.nn.functional.softplus(block.selective.bias.detach())
    assert 1 <= float(rate.min()) < 1.5 and 15.5 < float(rate.max()) <= 16
    assert float(rate.mean()) == pytest.approx(8.5, rel=0.1)
    assert 1e-3 * (1 - 1e-4) < float(dt.min()) < 1.2e-3 and 0.08 < float(dt.max()) < 0.1 * (1 + 1e-4)
    assert float(dt.log().mean()) == pytest.approx(torch.tensor(1e-2).log().item(), rel=0.05)


def test_decays_of_gla_start_near_one() -> None:
    """sigmoid(W2 W1 x + b)^(1/16), b = 0, through 16 numbers (arXiv:2312.06635 sec. 4.4): 2^(-1/16) in the middle."""
    values = {"architecture": "gla", "vocab_size": 8, "width": 512, "num_heads": 4, "pattern": "S"}
    block = build(parse_config(values)).layers[0].mixer
    assert isinstance(block, GatedLinearAttention)
    assert block.low_rank.down.out_features == 16 and not block.low_rank.up.bias.any()
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decay = block.low_rank(x).double().exp()
        logits = block.low_rank.up(block.low_rank.down(x))
    assert decay.shape == (512, 4, 128) and 0 < float(decay.min()) and float(decay.max()) < 1
    # both maps keep the variance 1 of their inputs; over 16 x 512 numbers and inputs it is drawn to about 3 %
    assert float(logits.std()) == pytest.approx(1, rel=0.05)
    assert float(decay.median()) == pytest.approx(2 ** (-1 / 16), rel=0.01)


def test_decays_of_kda_start_as_in_mamba2() -> None:
    """A uniform in [1, 16] a head, softplus(b) log-uniform in [0.001, 0.1] a key dimension (arXiv:2510.26692)."""
    values = {"architecture": "kda", "vocab_size": 8, "width": 1024, "num_heads": 512, "pattern": "K"}
    block = build(parse_config(values | {"gate_rank": 2})).layers[0].mixer
    assert isinstance(block, KimiDeltaAttention)
    rate = block.channel_decay.log_rate.detach().exp()
    step = torch.nn.functional.softplus(block.channel_decay.bias.detach())
    assert 1 <= float(rate.min()) < 1.5 and 15.5 < float(rate.max()) <= 16
    assert 1e-3 * (1 - 1e-4) < float(step.min()) < 1.2e-3 and 0.08 < float(step.max()) < 0.1 * (1 + 1e-4)


def test_rwkv7_starts_as_the_authors_middle_layer() -> None:
    """Half-way through the model (RWKV-LM): what a layer gives is 0, and decays fall from almost 1 to e^(-0.6)."""
    values = {"architecture": "rwkv7", "vocab_size": 8, "width": 256, "num_heads": 4, "pattern": "V"}
    block = build(parse_config(values)).layers[0].mixer
    assert isinstance(block, TimeMixing)
    mix = block.shift.mix.detach().view(6, 256)
    torch.testing.assert_close(mix[:, 0], torch.ones(6))
    torch.testing.assert_close(mix[:, 128], 1 - 0.5 ** torch.tensor([0.1, 0.45, 0.35, 0.35, 0.45, 0.1]))
    # -6 and 0 at the ends, 0.5, and the heads' zigzag of 2.5
    torch.testing.assert_close(block.vectors.decay.detach()[[0, -1]], torch.tensor([-8.0, 3.0]))
    assert not block.out.weight.any() and not block.decay.down.weight.any()
    assert float(block.key.weight.detach().std()) == pytest.approx(0.1 / 16, rel=0.05)


def test_the_bounds_of_hgrn2_start_where_they_are_told() -> None:
    values = {"architecture": "hgrn2", "vocab_size": 8, "width": 16, "pattern": "H"}
    block = build(parse_config(values | {"lower_bound": 0.3})).layers[0].mixer
    assert isinstance(block, HGRN2) and block.bound is not None
    torch.testing.assert_close(block.bound.logit.detach().sigmoid(), torch.full((16,), 0.3))
    log_decay = block._read(torch.zeros(1, 1, 16) - 1e4 * block.inputs.weight.detach()[16:32].sum(0))[3]
    assert float(log_decay.detach().exp().min()) >= 0.3 * (1 - 1e-6)
    plain = build(parse_config(values)).layers[0].mixer
    assert isinstance(plain, HGRN2) and plain.bound is None


def test_decays_of_retnet_are_fixed() -> None:
    found = fixed_decay(3, torch.device("cpu"), torch.float64).exp()
    torch.testing.assert_close(found, torch.tensor([31 / 32, 63 / 64, 127 / 128], dtype=torch.float64))


def test_the_augmentation_starts_from_nothing() -> None:
    """Taps and the scale across groups are 0, as in the authors' code (arXiv:2406.07368)."""
    block = build(parse_config({"architecture": "grouped", "vocab_size": 8, "pattern": "G"})).layers[0].mixer
    assert isinstance(block, GroupedAttention) and block.taps is not None
    assert not block.taps.weight.any() and not block.cross_scale.weight.any()
