"""Mistakes in what a model is given: one clear error each."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recallfront.models import load, save
from tests.models.cases import case_config, draw_tokens, make_model

MODEL = make_model(case_config("griffin"), torch.float32)


@pytest.mark.parametrize("positions", [[0, 1, 3], [0, 2, 1], [1, 1, 2], [-1, 0, 1]])
def test_positions_that_do_not_go_on(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="increase by 1"):
        MODEL(draw_tokens(1, 3), torch.tensor([positions]))


def test_shapes() -> None:
    with pytest.raises(ValueError, match="positions have shape"):
        MODEL(draw_tokens(2, 3), torch.arange(3)[None])
    with pytest.raises(ValueError, match=r"tokens have shape \(3,\)"):
        MODEL(draw_tokens(1, 3)[0])
    with pytest.raises(ValueError, match="not empty"):
        MODEL(draw_tokens(2, 3)[:, :0])
    with pytest.raises(ValueError, match="batch_size is 0"):
        MODEL.init_state(0)


def test_more_tokens_than_learned_positions() -> None:
    model = make_model(case_config("attention-gpt"), torch.float32)
    with pytest.raises(ValueError, match="learned_positions=64 allows"):
        model(draw_tokens(1, 65))
    _, state = model.prefill(draw_tokens(1, 64), model.init_state(1))
    with pytest.raises(ValueError, match="65 tokens long"):
        model.step(draw_tokens(1, 1)[:, 0], state)
    with pytest.raises(ValueError, match="66 tokens long"):
        model(draw_tokens(1, 3), torch.tensor([[63, 64, 65]]))


def test_packed_texts_and_padding_may_be_longer_than_learned_positions() -> None:
    """Each document fits; what lies beyond the table is padding."""
    model = make_model(case_config("attention-gpt"))
    tokens = draw_tokens(2, 100)
    packed = model(tokens, torch.arange(50).repeat(2).expand(2, -1))
    torch.testing.assert_close(packed[:, 50:], model(tokens[:, 50:]), atol=1e-10, rtol=1e-10)
    padded, _ = model.prefill(tokens, model.init_state(2), lengths=torch.tensor([64, 7]))
    torch.testing.assert_close(padded[:1, :64], model(tokens[:1, :64]), atol=1e-10, rtol=1e-10)


def test_a_state_of_another_type() -> None:
    state = make_model(case_config("hawk"), torch.float64).init_state(2)
    model = make_model(case_config("hawk"), torch.float32)
    with pytest.raises(ValueError, match="another configuration or type"):
        model.prefill(draw_tokens(2, 3), state)
    with pytest.raises(ValueError, match="another configuration or type"):
        model.step(draw_tokens(2, 1)[:, 0], state)


@pytest.mark.parametrize("lengths", [[0, 3], [1, 4], [2]])
def test_lengths(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths must be 2 numbers between 1 and 3"):
        MODEL.prefill(draw_tokens(2, 3), MODEL.init_state(2), lengths=torch.tensor(lengths))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="recallfront.json is missing"):
        load(tmp_path)


def test_weights_of_another_configuration(tmp_path: Path) -> None:
    save(MODEL, tmp_path)
    values = MODEL.config.model_dump() | {"num_layers": 2, "pattern": "RW"}
    (tmp_path / "recallfront.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="missing: layers.1.mixer.qkv.weight; left over: layers.1"):
        load(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="missing: embedding.weight"):
        load(tmp_path)
