"""Trials that start from another model's weights: linearized, trained whole or through adapters."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recallfront.models import build, load, parse_config
from recallfront.models.pretrained.lora import add_lora, merge_lora
from recallfront.models.pretrained.transformers_weights import from_transformers
from recallfront.platform.errors import UsageError
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.run import run_sweep
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.start import starting_model
from recallfront.platform.trial.workplace import read_workplace, workplace_json
from tests.platform.specs import tiny_spec
from tests.platform.trial import trials
from tests.platform.trial.trials import rows_of, run, setting

pytestmark = trials.MARKS

SIZES = {"width": 16, "num_heads": 2, "num_layers": 2, "mlp_expansion": 2, "mlp": "swiglu"}
SHARED = SIZES | {"tied_embeddings": False}
BLOCK = {"architecture": "grouped", "pattern": "G", "group_size": 4, "conv_size": 3, "positions": "rope"}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def changes(llama: Path, **start: Any) -> dict[str, Any]:
    return {"model": SHARED, "space": [BLOCK], "start": {"folder": str(llama)} | start}


@pytest.mark.parametrize(
    "block",
    [
        {"architecture": "based", "pattern": "LW", "positions": "rope", "num_kv_heads": 1, "window_size": 4},
        {"architecture": "mamba2", "pattern": "S", "state_dim": 8, "num_groups": 2, "value_expansion": 1},
    ],
    ids=lambda block: str(block["architecture"]),
)
def test_a_trial_trains_another_mixer_beside_adapters(
    tmp_path: Path, llama: Path, block: dict[str, Any]
) -> None:
    last = run(tmp_path, **changes(llama, lora={"rank": 2}) | {"space": [block]})[-1]
    assert last.status is Status.FINISHED, last.traceback
    config, _ = setting(tmp_path, **changes(llama) | {"space": [block]})
    before, after = starting_model(config), load(str(last.weights))
    source = from_transformers(LlamaForCausalLM.from_pretrained(llama))
    out = "layers.0.mixer.out.weight"
    assert torch.equal(before.state_dict()[out], source.state_dict()[out])
    moved = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    new = set(before.state_dict()) - set(source.state_dict())
    adapted = {f"layers.{index}.mixer.{name}.weight" for index in (0, 1) for name in ("qkv", "out")}
    assert moved == new | adapted


def test_all_weights_of_a_linearized_model_are_trained(tmp_path: Path, llama: Path) -> None:
    digest = hashlib.sha256((llama / "model.safetensors").read_bytes()).hexdigest()
    last = run(tmp_path, **changes(llama, sha256=digest))[-1]
    assert last.status is Status.FINISHED, last.traceback
    source = from_transformers(LlamaForCausalLM.from_pretrained(llama))
    trained = load(str(last.weights))
    assert not torch.equal(trained.embedding.weight, source.embedding.weight)


def test_adapters_are_trained_beside_frozen_weights_and_merged(tmp_path: Path, llama: Path) -> None:
    lora = {"rank": 2, "targets": ["qkv", "out", "up", "down"]}
    last = run(tmp_path, **changes(llama, lora=lora))[-1]
    assert last.status is Status.FINISHED, last.traceback
    config, _ = setting(tmp_path, **changes(llama))
    before, after = starting_model(config), load(str(last.weights))
    assert after.config == before.config == config.model
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        adapted = name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
        is_new = "cross_scale" in name or "taps" in name
        assert torch.equal(old, new) != (adapted or is_new), name
        if adapted:  # what an adapter adds has its rank; the rest is rounding
            values = torch.linalg.svdvals((new - old).double())
            assert values[2] < 1e-5 * values[0]


def test_a_saved_model_of_ours_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder is below the driver's working directory, whatever the worker's is."""
    first = run(tmp_path / "first")[-1]
    monkeypatch.chdir(Path(str(first.weights)).parent)
    config, place = setting(tmp_path / "second", start={"folder": Path(str(first.weights)).name})
    monkeypatch.chdir(tmp_path)
    told = json.loads(json.dumps(workplace_json(place)))
    last = list(run_trial(config, read_workplace(told)))[-1]
    assert last.status is Status.FINISHED, last.traceback
    assert dict(last.figures)["test_loss"] < dict(first.figures)["test_loss"]


def test_a_trial_of_no_steps_evaluates_the_model_as_it_starts(tmp_path: Path) -> None:
    first = run(tmp_path / "first")[-1]
    start = {"folder": str(first.weights)}
    reports = run(tmp_path / "second", start=start, training={"steps": 0})
    last = reports[-1]
    assert last.status is Status.FINISHED, last.traceback
    for metric in ("recall", "test_loss", "validation_recall", "validation_loss"):
        assert last.figures[metric] == first.figures[metric]
    assert rows_of(reports, "validation_recall") == [(0, first.figures["validation_recall"])]
    assert rows_of(reports, "loss") == []
    # what has ended is told whole by a later run
    again = run(tmp_path / "second", start=start, training={"steps": 0})
    assert rows_of(again, "validation_recall") == rows_of(reports, "validation_recall")
    before, after = load(str(first.weights)), load(str(last.weights))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (None, "is not a folder"),
        ((), "holds no model.safetensors"),
        (("model.safetensors",), "holds neither recallfront.json nor config.json"),
    ],
)
def test_a_sweep_without_its_model_is_refused_before_anything_is_computed(
    tmp_path: Path, left: tuple[str, ...] | None, message: str
) -> None:
    folder, home = tmp_path / "model", tmp_path / "home"
    if left is not None:
        folder.mkdir()
        for name in left:
            (folder / name).touch()
    spec = tiny_spec(**changes(folder))
    with pytest.raises(UsageError, match=message):
        run_sweep(spec, home=home)
    assert not home.exists()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"folder": "/nowhere"}, "start.folder='/nowhere': is not a folder"),
        ({"sha256": "0" * 64}, "start.sha256=0000"),
        (
            {"lora": {"targets": ["query"]}},
            "targets: the model has no linear map 'query'; it has down, out, qkv",
        ),
    ],
)
def test_what_cannot_be_started_from(
    tmp_path: Path, llama: Path, start: dict[str, Any], message: str
) -> None:
    last = run(tmp_path, **changes(llama, **start))[-1]
    assert last.status is Status.ERROR
    assert message in str(last.failure)


def test_a_model_of_another_size(tmp_path: Path, llama: Path) -> None:
    wrong = changes(llama) | {"model": SHARED | {"width": 32}}
    last = run(tmp_path, **wrong)[-1]
    assert last.status is Status.ERROR
    assert "width is 32, and 16 in the model that is linearized" in str(last.failure)


def test_adapters_follow_from_the_seed() -> None:
    """Whatever was drawn before; and what is drawn after does not follow from them."""

    def drawn(seed: int) -> list[torch.Tensor]:
        model = build(parse_config(SHARED | {"architecture": "window", "vocab_size": 32, "window_size": 4}))
        add_lora(model, rank=2, alpha=4, targets=["qkv"], seed=seed)
        return [parameter for name, parameter in model.named_parameters() if "lora_A" in name]

    state = torch.get_rng_state()
    first = drawn(0)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(1)
    again, other = drawn(0), drawn(1)
    assert first and all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))


def test_adapters_start_as_nothing_and_merge_exactly() -> None:
    model = build(parse_config(SHARED | {"architecture": "griffin", "vocab_size": 32, "pattern": "RW"}))
    tokens = torch.arange(12).view(2, 6)
    expected = model(tokens)
    with pytest.raises(ValueError, match="'unembedding' can have no adapter"):
        add_lora(model, rank=2, alpha=4, targets=["unembedding"])
    add_lora(model, rank=2, alpha=4, targets=["branches", "qkv", "up"])
    # equal but for a matrix product's order of sums, which on a CPU may follow where its operands lie in memory
    torch.testing.assert_close(model(tokens), expected, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    adapted = model(tokens)
    assert not torch.allclose(adapted, expected)
    merge_lora(model)
    assert not any("lora" in name for name, _ in model.named_parameters())
    # the same sums in another order, in float32
    torch.testing.assert_close(model(tokens), adapted, atol=1e-5, rtol=1e-5)
