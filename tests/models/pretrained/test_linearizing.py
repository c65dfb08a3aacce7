"""Pretrained attention replaced by every mixer: what is kept, what it computes, that it learns, with adapters too."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from recallfront.models import LanguageModel, build, parse_config
from recallfront.models.pretrained.linearizing import adopt
from recallfront.models.pretrained.lora import add_lora, merge_lora
from recallfront.models.pretrained.transformers_weights import from_transformers, linearize
from tests.models.cases import CASES as MODEL_CASES
from tests.models.cases import case_config, draw_tokens
from tests.models.pretrained.test_pretrained import tiny_gpt2, tiny_llama

HEADS, WIDTH = 4, 16

# architecture, knobs, and what each letter of the pattern keeps of q, k, v and the way out
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "grouped": ("grouped", {"group_size": 4, "conv_size": 6}, "qkvo"),
    "elu": ("linear", {"feature_map": "elu", "conv_size": 4}, "qkvo"),
    "hedgehog": ("linear", {"feature_map": "hedgehog"}, "qkvo"),
    "narrow": ("linear", {"feature_dim": 3}, "vo"),
    "based": ("based", {"feature_dim": 3, "window_size": 4}, "vo"),
    "based-whole": ("based", {"feature_dim": None, "window_size": 4, "pattern": "LLW"}, "qkvo"),
    "window": ("window", {"window_size": 8}, "qkvo"),
    "hawk": ("hawk", {}, "vo"),
    "griffin": ("griffin", {"window_size": 4}, "vo"),
    "griffin-global": ("griffin", {"pattern": "RA"}, "vo"),
    "mamba2": ("mamba2", {}, "qkvo"),
    "mamba2-shared": ("mamba2", {"num_groups": 1, "state_dim": 5}, "vo"),
    "gated_deltanet": ("gated_deltanet", {}, "qkvo"),
    "gated_deltanet-wide": ("gated_deltanet", {"value_expansion": 2}, "qk"),
    "deltanet": ("deltanet", {}, "qkvo"),
    "gla": ("gla", {"gate_rank": 3}, "qkvo"),
    "retnet": ("retnet", {}, "qkvo"),
    "kda": ("kda", {}, "qkvo"),
    "rwkv7": ("rwkv7", {}, "vo"),
    "hgrn2": ("hgrn2", {}, "vo"),
}
MODELS = {
    "llama": lambda: tiny_llama(num_hidden_layers=3, rope_theta=500.0),
    "gpt2": lambda: tiny_gpt2(n_layer=3, n_head=HEADS),
}


@pytest.fixture(params=MODELS)
def theirs(request: pytest.FixtureRequest) -> PreTrainedModel:
    model: PreTrainedModel = MODELS[request.param]()
    with torch.no_grad():  # biases and norms off 0 and 1
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05
            )
    return model


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], str]:
    return CASES[request.param]


def linearized(theirs: PreTrainedModel, case: tuple[str, dict[str, Any], str]) -> LanguageModel:
    architecture, knobs, _ = case
    return linearize(theirs, architecture, **knobs)


def their_parts(theirs: PreTrainedModel, layer: int, part: str) -> dict[str, Tensor] | None:
    """q, k, v and o of a layer, weights or biases, by the names of transformers, each head with its own keys."""
    weights = theirs.state_dict()
    if theirs.config.model_type == "gpt2":
        there = f"transformer.h.{layer}.attn."
        qkv, out = (weights[f"{there}{name}.{part}"] for name in ("c_attn", "c_proj"))
        if part == "weight":
            qkv, out = qkv.T, out.T
        return dict(zip("qkvo", (*qkv.chunk(3), out), strict=True))
    if part == "bias":
        return None
    found = {name: weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkvo"}
    for name in "kv":  # two query heads share a key head
        found[name] = found[name].view(2, 1, -1, WIDTH).expand(2, 2, -1, WIDTH).reshape(WIDTH, WIDTH)
    return found


def our_parts(mixer: torch.nn.Module, letter: str, part: str) -> dict[str, Tensor]:
    """The rows that could be theirs, with the roles that they have here."""
    weights = dict(mixer.named_parameters())
    if letter == "R":
        branches = weights[f"branches.{part}"]
        return {"v": branches[len(branches) // 2 :], "o": weights[f"out.{part}"]}
    if letter in "VH":
        values = weights[f"value.{part}"] if letter == "V" else weights[f"inputs.{part}"][-WIDTH:]
        return {"v": values, "o": weights[f"out.{part}"]}
    rows = weights[f"qkv.{part}"]
    narrow: Any = mixer  # keys of a linear attention or a matrix state may have another width
    keys = HEADS * narrow.key_dim if letter == "L" else narrow.key_width if letter in "SK" else WIDTH
    return {"q": rows[:keys], "k": rows[keys : 2 * keys], "v": rows[2 * keys :], "o": weights[f"out.{part}"]}


def test_the_weights_of_attention_are_kept_where_they_fit(
    theirs: PreTrainedModel, case: tuple[str, dict[str, Any], str]
) -> None:
    model = linearized(theirs, case)
    for index, letter in enumerate(model.config.layers):
        mixer: Any = model.layers[index].mixer
        for part in ("weight", "bias"):
            expected = their_parts(theirs, index, part)
            if expected is None:
                continue
            if letter in "AW":
                source = from_transformers(theirs).layers[index].mixer.state_dict()  # type: ignore[union-attr]
                assert all(torch.equal(mixer.state_dict()[name], source[name]) for name in source)
                continue
            for role, found in our_parts(mixer, letter, part).items():
                same = found.shape == expected[role].shape and torch.equal(found, expected[role])
                assert same == (role in case[2]), (index, letter, role, part)


def test_every_other_weight_is_kept(theirs: PreTrainedModel, case: tuple[str, dict[str, Any], str]) -> None:
    source, model = from_transformers(theirs), linearized(theirs, case)
    found = model.state_dict()
    for name, tensor in source.state_dict().items():
        assert ".mixer." in name or torch.equal(found[name], tensor), name
    added = {name for name in found if ".mixer." not in name} - source.state_dict().keys()
    assert not any(found[name].any() for name in added)  # biases that only ours has


def test_a_linearized_model_decodes_as_it_reads(
    theirs: PreTrainedModel, case: tuple[str, dict[str, Any], str]
) -> None:
    check_that_it_decodes_as_it_reads(linearized(theirs.double(), case))


def check_that_it_decodes_as_it_reads(model: LanguageModel) -> None:
    tokens = draw_tokens(2, 14)
    with torch.no_grad():
        expected = model(tokens)
        assert expected.dtype == torch.float64 and bool(expected.isfinite().all())
        logits, state = model.prefill(tokens[:, :7], model.init_state(2))
        rows = [logits]
        for column in tokens[:, 7:].unbind(1):
            row, state = model.step(column, state)
            rows.append(row[:, None])
        torch.testing.assert_close(torch.cat(rows, 1), expected, atol=1e-10, rtol=1e-10)


def train(model: LanguageModel, steps: int) -> tuple[float, float]:
    """The loss on four fixed rows before and after so many steps."""
    tokens, losses = draw_tokens(4, 12), []
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_a_linearized_model_learns(theirs: PreTrainedModel, case: tuple[str, dict[str, Any], str]) -> None:
    before, after = train(linearized(theirs, case), 30)
    assert after < 0.8 * before


def test_adapters_beside_what_is_kept(theirs: PreTrainedModel, case: tuple[str, dict[str, Any], str]) -> None:
    """What is new trains whole, what was taken over through adapters, and all else stays."""
    source, config = from_transformers(theirs), linearized(theirs, case).config
    model, new = adopt(source, config)
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    read = [config.mixer(letter).projection() for letter in config.layers]
    targets = [*{projection.name for projection in read if projection is not None}, "out"]
    add_lora(model, rank=2, alpha=4, targets=targets, train_whole=new)
    before, after = train(model, 30)
    assert after < 0.95 * before
    merge_lora(model)
    assert first.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        moves = name in new or name.endswith(tuple(f"{target}.weight" for target in targets))
        assert moves or torch.equal(parameter, first[name]), name
    assert not any(".mixer." not in name and name in source.state_dict() for name in new)


def test_layers_that_stay_attention_change_nothing(theirs: PreTrainedModel) -> None:
    tokens = draw_tokens(2, 9)
    with torch.no_grad():
        expected = theirs(tokens).logits
        for model in (
            linearize(theirs, "window", window_size=9),
            linearize(theirs, "based", pattern="W", window_size=9),
            linearize(theirs, "griffin", pattern="A"),
        ):
            torch.testing.assert_close(model(tokens), expected, atol=2e-5, rtol=2e-5)


def test_convolutions_start_as_the_identity(theirs: PreTrainedModel) -> None:
    for architecture in ("mamba2", "deltanet", "hawk"):
        conv: Any = linearize(theirs, architecture).layers[0].mixer.conv  # type: ignore[union-attr]
        assert torch.equal(conv.taps[:, -1], torch.ones_like(conv.taps[:, -1]))
        assert not conv.taps[:, :-1].any() and not conv.bias.any()


def test_what_is_new_follows_from_the_seed() -> None:
    first, again, other = (
        linearize(tiny_llama(), "gla", seed=seed).layers[0].mixer.gate.weight  # type: ignore[union-attr]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("architecture", "knobs", "message"),
    [
        (
            "attention",
            {},
            "architecture is 'attention'; it may be based, deltanet, gated_deltanet, gla, griff",
        ),
        ("grouped", {"group_size": 0}, "group_size"),
        (
            "gla",
            {"pattern": "CS"},
            "pattern is 'CS', and C .short_conv. has nothing to take of attention",
        ),
        (
            "mamba2",
            {"num_groups": 1, "value_expansion": 2},
            "mamba2 keeps nothing of the attention: .*value_exp",
        ),
        ("hawk", {"lru_width": 24}, "rg_lru keeps nothing of the attention: .*lru_width is 24; .*16"),
        ("window", {"num_kv_heads": 1}, "kv_heads is 1, and 2 in the model that is linearized"),
        (
            "window",
            {"positions": "alibi"},
            "positions is 'alibi', and 'rope' in the model that is linearized",
        ),
        (
            "griffin",
            {"pattern": "W", "rotary_fraction": 0.5},
            "rotary_dim is 2, and 4 in the model that is linearized",
        ),
        ("retnet", {"mlp": "geglu"}, "mlp is 'geglu', and 'swiglu' in the model that is linearized"),
        ("retnet", {"mlp_expansion": 2}, "mlp_width is 32, and 40 in the model that is linearized"),
    ],
)
def test_what_cannot_be_linearized(architecture: str, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linearize(tiny_llama(), architecture, **knobs)


def test_models_that_cannot_be_linearized() -> None:
    with pytest.raises(ValueError, match="only attention in every layer"):
        linearize(build(case_config("griffin")))
    values = {"architecture": "attention", "vocab_size": 17, "width": 16, "pattern": "A"}
    added = parse_config(values | {"positions": "sinusoidal"})
    with pytest.raises(
        ValueError, match="positions='sinusoidal' are added to the embeddings, which gla has not"
    ):
        linearize(build(added), "gla")
    assert linearize(build(added), "window").config.layers == "W"
    learned = linearize(build(parse_config(values | {"positions": "t5"})), "window")
    assert "layers.0.mixer.t5_bias.weight" in learned.state_dict()


def test_a_hybrid_takes_over_attention() -> None:
    """Each mixer keeps what it would alone; layers that stay attention keep all."""
    source = from_transformers(tiny_llama(num_hidden_layers=3))
    mixers = {"S": {"mixer": "gla"}, "W": {"mixer": "window", "window_size": 9}, "A": {"mixer": "attention"}}
    model = linearize(source, "hybrid", mixers=mixers, pattern="SWA")
    for layer, names in ((0, ["qkv.weight", "out.weight"]), (1, ["qkv.weight"]), (2, ["qkv.weight"])):
        theirs, ours = (m.layers[layer].mixer.state_dict() for m in (source, model))  # type: ignore[union-attr]
        for name in names:
            width = theirs[name].shape[0]
            assert torch.equal(ours[name][:WIDTH], theirs[name][: min(width, WIDTH)]), (layer, name)
    only = linearize(source, "hybrid", mixers={"A": {"mixer": "attention"}}, pattern="A")
    tokens = draw_tokens(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(only(tokens), source(tokens))


# of the drawn hybrids, what an attention leaves open: its positions and the width of values are given
GIVEN = {"positions", "rotary_fraction", "value_expansion", "lru_width", "gate_blocks"}


@pytest.mark.parametrize("name", [name for name in MODEL_CASES if name.startswith("hybrid-")])
def test_a_drawn_hybrid_takes_over_what_each_of_its_mixers_takes_alone(name: str) -> None:
    """Convolutions, which have nothing to take, leave their layers to attention."""
    drawn: dict[str, Any] = MODEL_CASES[name]
    mixers = {
        letter: {"mixer": "attention"}
        if knobs["mixer"] in ("short_conv", "based_conv")
        else {knob: value for knob, value in knobs.items() if knob not in GIVEN}
        for letter, knobs in drawn["mixers"].items()
    }
    pattern = drawn["pattern"]
    values = {"architecture": "attention", "pattern": "A", "positions": "rope", "num_layers": len(pattern)}
    shared = {name: drawn[name] for name in ("num_heads", "biases", "norm", "mlp_expansion")}
    source = build(parse_config({"vocab_size": 17, "width": 16} | values | shared), seed=1).double()
    model = linearize(source, "hybrid", mixers=mixers, pattern=pattern)
    check_that_it_decodes_as_it_reads(model)
    weights = model.state_dict()
    kept = weights.keys() - set(adopt(source, model.config).new)
    for index, letter in enumerate(pattern):
        only = linearize(source, "hybrid", mixers={letter: mixers[letter]}, pattern=letter)
        alone = only.state_dict()
        here = {name for name in kept if name.startswith(f"layers.{index}.")}
        assert here == {
            name
            for name in alone.keys() - set(adopt(source, only.config).new)
            if name.startswith(f"layers.{index}.")
        }
        assert f"layers.{index}.mixer.out.weight" in here
        assert all(torch.equal(weights[name], alone[name]) for name in here)


BIASED = {"architecture": "griffin", "vocab_size": 17, "width": 16, "num_heads": 4, "pattern": "AA"}
ATTENTION = {"A": {"mixer": "attention"}}


@pytest.mark.parametrize("architecture", ["griffin", "hybrid"])
def test_biases_of_attention_and_of_channel_mixers_are_kept(architecture: str) -> None:
    own = {"A": ATTENTION["A"] | {"num_kv_heads": 1, "positions": "rope", "out_bias": True}}
    hybrid = {"mixers": own, "mlp_biases": True} if architecture == "hybrid" else {}
    source = build(parse_config(BIASED | {"mlp_expansion": 2, "architecture": architecture, **hybrid}))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.05)
    same = linearize(source, "hybrid", mixers=ATTENTION, pattern="A")
    tokens = draw_tokens(2, 9)
    torch.testing.assert_close(same(tokens), source(tokens))
    assert linearize(source, "hawk").config.layers == "RR"


@pytest.mark.parametrize(
    ("source", "architecture", "knobs", "message"),
    [
        (
            {"mlp_expansion": 2},
            "grouped",
            {},
            "the model's channel mixers have biases, and grouped's have none",
        ),
        ({}, "linear", {}, "linear has no bias in its way out, and the model's attention has one"),
        (
            {},
            "hybrid",
            {"mixers": {"L": "linear"}, "pattern": "L"},
            "mixers.L='linear': must be a mixer such as",
        ),
        ({}, "hybrid", {"mixers": "linear", "pattern": "L"}, "mixers='linear': must be a mapping of letters"),
    ],
)
def test_biases_that_have_no_place_are_refused(
    source: dict[str, Any], architecture: str, knobs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        linearize(build(parse_config(BIASED | source)), architecture, **knobs)


def test_dropout_and_the_start_s_scale_may_be_other_ones() -> None:
    values = {"vocab_size": 17, "width": 16, "pattern": "A", "positions": "none"}
    source = build(parse_config(values | {"architecture": "attention"}))
    free = {"architecture": "linear", "pattern": "L", "embedding_dropout": 0.1, "init_depth_scaling": False}
    config = parse_config({key: value for key, value in values.items() if key != "positions"} | free)
    assert torch.equal(adopt(source, config).model.embedding.weight, source.embedding.weight)


def test_rotary_positions_that_turn_a_part_of_each_head_do_not_turn_all_of_it() -> None:
    rope = {"mixer": "attention", "positions": "rope"}
    for fraction, positions in ((1.0, "rope"), (0.5, "none")):
        mixers = {"A": rope | {"rotary_fraction": fraction}}
        source = build(parse_config(BIASED | {"architecture": "hybrid", "mixers": mixers}))
        assert linearize(source, "grouped").config.mixer("G").positions == positions  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="rotary_dim is 4, and 2 in the model that is linearized"):
        linearize(source, "grouped", positions="rope")
