"""Models of transformers read in, linearized, and ours written out."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from recallfront.models import LanguageModel
from recallfront.models.decoding.generation import generate
from recallfront.models.pretrained.hugging_face import from_pretrained, register_auto_classes, save_pretrained
from recallfront.models.pretrained.transformers_weights import from_transformers
from tests.models.cases import CASES, case_config, draw_tokens, make_model

LLAMA: dict[str, Any] = {
    "vocab_size": 17,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tiny_llama(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**(LLAMA | changes)))
    return model


def tiny_gpt2(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    values: dict[str, Any] = {"vocab_size": 17, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(**(values | changes))
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    model: PreTrainedModel = GPT2LMHeadModel(config)
    return model


def tiny_mistral(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = MistralForCausalLM(MistralConfig(**(LLAMA | {"head_dim": 4} | changes)))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny_llama,
    "llama-tied": lambda: tiny_llama(tie_word_embeddings=True, rope_theta=500.0),
    "llama-settings": lambda: tiny_llama(
        _model_name_or_path="a name that changes nothing",
        rms_norm_eps=0.1,
        hidden_act="silu",
        attention_dropout=0.5,
        head_dim=4,
    ),
    "mistral": lambda: tiny_mistral(sliding_window=None),
    "gpt2": tiny_gpt2,
    "gpt2-untied": lambda: tiny_gpt2(tie_word_embeddings=False),
    "gpt2-settings": lambda: tiny_gpt2(n_inner=24, layer_norm_epsilon=0.1, reorder_and_upcast_attn=True),
}


# what would change the logits and is not read -> how the error names it
REFUSED: dict[str, tuple[Callable[..., PreTrainedModel], dict[str, Any], str]] = {
    "llama-biases": (tiny_llama, {"attention_bias": True}, "biases"),
    "llama-mlp-biases": (tiny_llama, {"mlp_bias": True}, "biases"),
    "llama-activation": (tiny_llama, {"hidden_act": "gelu"}, "another activation"),
    "llama-heads": (tiny_llama, {"head_dim": 8}, "heads of another width"),
    "llama-rope": (
        tiny_llama,
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        "a rotary scaling",
    ),
    "mistral-window": (tiny_mistral, {"sliding_window": 4}, "a sliding window"),
    "gpt2-activation": (tiny_gpt2, {"activation_function": "relu"}, "another activation"),
    "gpt2-layer-scale": (
        tiny_gpt2,
        {"scale_attn_by_inverse_layer_idx": True},
        "attention scaled by the layer",
    ),
    "gpt2-unscaled": (tiny_gpt2, {"scale_attn_weights": False}, "unscaled attention"),
    "gpt2-cross": (tiny_gpt2, {"add_cross_attention": True}, "add_cross_attention=True"),
    "unheard-of": (tiny_llama, {"residual_multiplier": 0.5}, "residual_multiplier=0.5"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_logits(name: str) -> None:
    theirs = MODELS[name]()
    theirs.eval()
    tokens = draw_tokens(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            from_transformers(theirs)(tokens), theirs(tokens).logits, atol=2e-5, rtol=2e-5
        )


def test_small_gains_of_a_half_precision_model_are_kept() -> None:
    """Ours are held less 1, where bfloat16 has steps of 0.004."""
    theirs: Any = tiny_llama().bfloat16()
    norms = [weight for name, weight in theirs.named_parameters() if "norm" in name]
    with torch.no_grad():
        for weight in norms:
            weight.uniform_(0.01, 0.02)
    ours, tokens = from_transformers(theirs), draw_tokens(2, 20)
    with torch.no_grad():
        expected = theirs.float()(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_would_change_the_logits_is_refused_by_name(name: str) -> None:
    make, given, named = REFUSED[name]
    with pytest.raises(ValueError, match=named):
        from_transformers(make(**given))


def test_what_cannot_be_read() -> None:
    other = OPTForCausalLM(
        OPTConfig(vocab_size=17, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(ValueError, match="model_type is 'opt'"):
        from_transformers(other)


@pytest.mark.parametrize("name", CASES)
def test_every_architecture_is_written_out(name: str, tmp_path: Path) -> None:
    model = make_model(case_config(name), torch.float32)
    save_pretrained(model, tmp_path)
    again, tokens = from_pretrained(tmp_path), draw_tokens(2, 7)
    read = again.language_model.state_dict()
    assert all(torch.equal(read[key], tensor) for key, tensor in model.state_dict().items())
    # on some processors the order of a product's sums follows where the weights lie in memory
    torch.testing.assert_close(again(tokens).logits, model(tokens), atol=1e-6, rtol=1e-6)


WRITTEN = ["griffin", "based", "grouped", "mamba2", "linear-performer", "hybrid-10", "hybrid-21"]


@pytest.mark.parametrize("name", WRITTEN)
class TestWrittenOut:
    def saved(self, name: str, folder: Path) -> LanguageModel:
        model = make_model(case_config(name), torch.float32)
        save_pretrained(model, folder)
        return model

    def test_the_same_logits_padded_on_either_side(self, name: str, tmp_path: Path) -> None:
        model = self.saved(name, tmp_path)
        register_auto_classes()
        tokens = draw_tokens(2, 7)
        mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
        with torch.no_grad():
            for loaded in (from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
                assert torch.equal(loaded(tokens).logits, model(tokens))
                padded = loaded(tokens, attention_mask=mask, labels=tokens)
                torch.testing.assert_close(padded.logits[0, :4], model(tokens[:1, :4])[0])
                torch.testing.assert_close(padded.logits[1, 2:], model(tokens[1:, 2:])[0])
                assert padded.loss.isfinite()

    def test_generation_is_ours(self, name: str, tmp_path: Path) -> None:
        model = self.saved(name, tmp_path)
        tokens = draw_tokens(2, 5)
        # its method `generate` is typed for classes of transformers alone
        loaded: Any = from_pretrained(tmp_path)
        theirs = loaded.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=4, do_sample=False
        )
        assert theirs[:, 5:].tolist() == generate(model, tokens, max_new_tokens=4)


@torch.no_grad()
def log_likelihood(model: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """As evaluation harnesses score a continuation: one row, its last token left out, log-softmax, gather."""
    row = torch.tensor([(context + continuation)[:-1]])
    logits = model(row).logits.log_softmax(-1)[:, -len(continuation) :]
    wanted = torch.tensor([continuation])
    greedy = bool((logits.argmax(-1) == wanted).all())
    return float(logits.gather(2, wanted[..., None]).sum()), greedy


def test_evaluation_tools_score_and_generate(tmp_path: Path) -> None:
    ours = make_model(case_config("based"), torch.float32)
    save_pretrained(ours, tmp_path)
    register_auto_classes()
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    model.eval()
    model.tie_weights()
    assert model.config.vocab_size == 17 and str(model.device) == "cpu"
    context, continuation = [3, 1, 4], [1, 5, 9]
    score, greedy = log_likelihood(model, context, continuation)
    text = torch.tensor([context + continuation])
    expected = -F.cross_entropy(ours(text)[0, 2:-1].detach(), text[0, 3:], reduction="sum")
    assert score == pytest.approx(float(expected), rel=1e-5)
    best = generate(ours, torch.tensor([context]), max_new_tokens=3)[0]
    assert greedy == (best == continuation)
    assert log_likelihood(model, context, best)[1]
    # generation as they call it: left padding, a cache asked for, a length in all, a padding token
    padded, mask = (
        torch.tensor([[0, 0, *context], [7, *context, 2]]),
        torch.tensor([[0, 0, 1, 1, 1], [1] * 5]),
    )
    found = model.generate(
        input_ids=padded, attention_mask=mask, max_length=8, do_sample=False, use_cache=True, pad_token_id=0
    )
    assert found[0, 5:].tolist() == best


def test_evaluation_tools_learn_how_long_a_text_may_be(tmp_path: Path) -> None:
    for name, longest in (("attention-gpt", 64), ("griffin", None)):
        save_pretrained(make_model(case_config(name), torch.float32), tmp_path / name)
        config = from_pretrained(tmp_path / name).config
        assert getattr(config, "max_position_embeddings", None) == longest


def test_a_tool_that_knows_nothing_of_us_loads_it(tmp_path: Path) -> None:
    ours = make_model(case_config("grouped"), torch.float32)
    save_pretrained(ours, tmp_path / "model")
    program = (
        "import sys, torch; from transformers import AutoModelForCausalLM; "
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True); "
        "print(model(torch.arange(6)[None]).logits.argmax(-1).tolist())"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, str(tmp_path / "model")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(ours(torch.arange(6)[None]).argmax(-1).tolist())
