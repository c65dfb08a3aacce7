import ast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.models import LanguageModel, load_recurrentgemma
from recallfront.models.pretrained.recurrentgemma import to_recurrentgemma
from tests.kernels.golden import GRADIENTS, VALUES, difference, load_golden, load_text


def read(name: str) -> tuple[dict[str, Tensor], LanguageModel]:
    golden = load_golden(f"{name}_recurrentgemma")
    config = ast.literal_eval(load_text(f"{name}_recurrentgemma", "config"))
    keywords = ("attention_window_size", "embeddings_scale_by_sqrt_dim", "logits_soft_cap")
    return golden, load_recurrentgemma(parameters(golden), **{key: config[key] for key in keywords})


def parameters(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[6:]: tensor for name, tensor in golden.items() if name.startswith("param.")}


@pytest.mark.parametrize("name", ["griffin", "hawk"])
class TestGolden:
    def test_logits_loss_and_every_gradient(self, name: str) -> None:
        golden, model = read(name)
        tokens = golden["tokens"]
        logits = model(tokens, golden["segment_pos"])
        assert difference(logits, golden["logits"]) < VALUES
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        assert loss.item() == pytest.approx(float(golden["loss"]), rel=VALUES)
        torch.autograd.backward(loss)
        gradients = to_recurrentgemma(model, gradients=True)
        assert gradients.keys() == parameters(golden).keys()
        for key, gradient in gradients.items():
            assert difference(gradient, golden[f"grad.{key}"]) < GRADIENTS, key

    def test_decoding(self, name: str) -> None:
        golden, model = read(name)
        prompt = int(golden["decode_prompt_length"])
        tokens = golden["tokens"][:1]
        logits, state = model.prefill(tokens[:, :prompt], model.init_state(1))
        rows = [logits[0, -1]]
        for column in tokens[:, prompt:].unbind(1):
            row, state = model.step(column, state)
            rows.append(row[0])
        assert difference(torch.stack(rows), golden["decode_logits"]) < VALUES

    def test_there_and_back(self, name: str) -> None:
        golden, model = read(name)
        released = to_recurrentgemma(model)
        assert all(torch.equal(released[key], tensor) for key, tensor in parameters(golden).items())

    def test_parameters_that_do_not_fit(self, name: str) -> None:
        wrong = parameters(load_golden(f"{name}_recurrentgemma"))
        wrong["blocks.0.unknown"] = wrong.pop("blocks.0.temporal_pre_norm.scale")
        wrong["final_norm.scale"] = torch.ones(7)
        message = (
            "missing: blocks.0.temporal_pre_norm.scale; left over: blocks.0.unknown; "
            "wrong shape: final_norm.scale has shape"
        )
        with pytest.raises(ValueError, match=message):
            load_recurrentgemma(wrong)


def test_an_empty_set_of_parameters() -> None:
    with pytest.raises(ValueError, match="missing: embedder.input_embedding"):
        load_recurrentgemma({})
