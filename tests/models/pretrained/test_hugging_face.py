"""What users of transformers call on an exported model: training from scratch, accumulation, generation, resizing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

from recallfront.models.decoding.generation import generate
from recallfront.models.pretrained.hugging_face import (
    RecallfrontForCausalLM,
    from_pretrained,
    register_auto_classes,
    save_pretrained,
    to_transformers,
)
from tests.models.cases import CASES, case_config, draw_tokens, make_model

# attention, recurrences, a hybrid, a matrix state, a table of positions
NAMES = ("attention", "hawk", "griffin", "mamba2", "attention-gpt")
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


def exported(name: str) -> Any:
    """`generate` is typed for transformers' own classes alone."""
    model: Any = to_transformers(make_model(case_config(name), torch.float32))
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_from_config_draws_as_build_does(name: str, tmp_path: Path) -> None:
    register_auto_classes()
    config = AutoConfig.from_pretrained(save_pretrained(make_model(case_config(name)), tmp_path))
    junk = [torch.full((300_000,), float("nan")) for _ in range(20)]
    del junk  # memory that was used before
    set_seed(3)
    auto: Any = AutoModelForCausalLM
    model = auto.from_config(config)
    set_seed(3)
    again = auto.from_config(config)
    for (parameter, drawn), same in zip(model.named_parameters(), again.parameters(), strict=True):
        assert drawn.isfinite().all() and drawn.abs().max() < 100, parameter
        assert torch.equal(drawn, same), parameter
    tokens = draw_tokens(2, 9)
    assert model(tokens, labels=tokens).loss < 20


def test_loading_keeps_every_weight(tmp_path: Path) -> None:
    ours = make_model(case_config("griffin"), torch.float32)
    loaded = from_pretrained(save_pretrained(ours, tmp_path))
    for saved, read in zip(ours.parameters(), loaded.language_model.parameters(), strict=True):
        assert torch.equal(saved, read)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_loss_of_micro_batches_sums_to_the_whole(parts: int) -> None:
    model, tokens = exported("hawk"), draw_tokens(8, 12)
    labels = tokens.masked_fill(draw_tokens(8, 12, seed=1) < 5, -100)
    whole = model(tokens, labels=labels).loss
    items = (labels[:, 1:] != -100).sum()
    pairs = zip(tokens.chunk(parts), labels.chunk(parts), strict=True)
    summed = sum(model(x, labels=y, num_items_in_batch=items).loss for x, y in pairs)
    torch.testing.assert_close(summed, whole, rtol=1e-5, atol=1e-6)


def test_a_step_of_the_trainer_is_the_same_step_in_micro_batches(tmp_path: Path) -> None:
    """Also if micro-batches have different numbers of labels: the step is the mean over all of them."""
    tokens = draw_tokens(8, 12)
    labels = tokens.clone()
    labels[:4, 2:] = -100
    rows = [{"input_ids": row, "labels": own} for row, own in zip(tokens, labels, strict=True)]
    steps = []
    for parts in (1, 4):
        model = exported("hawk")
        before = [parameter.detach().clone() for parameter in model.parameters()]
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=rows).train()
        moved = zip(model.parameters(), before, strict=True)
        steps.append(torch.cat([(after - start).flatten() for after, start in moved]))
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ("attention-rope", "griffin", "mamba2"))
def test_position_ids_are_packed_documents(name: str) -> None:
    model, tokens = exported(name), draw_tokens(1, 11)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])
    packed = model(tokens, position_ids=positions).logits
    alone = model(tokens[:, 4:]).logits
    torch.testing.assert_close(packed[:, 4:], alone, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(packed, model(tokens).logits)
    with torch.no_grad():
        last = model(tokens, position_ids=positions, use_cache=True, logits_to_keep=1).logits
    torch.testing.assert_close(last, packed[:, -1:], rtol=2e-5, atol=2e-5)


def test_positions_of_padded_rows() -> None:
    model, tokens = exported("attention-rope"), draw_tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    usual = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    given = model(tokens, attention_mask=mask, position_ids=usual).logits
    assert torch.equal(given, model(tokens, attention_mask=mask).logits)
    with pytest.raises(ValueError, match="must count each row's own tokens"):
        model(tokens, attention_mask=mask, position_ids=torch.arange(6)[None].expand(2, -1))


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_embeddings_and_tuples(name: str) -> None:
    model, tokens = exported(name), draw_tokens(2, 7)
    found = model(tokens, output_hidden_states=True)
    assert len(found.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(model.language_model.unembed(found.hidden_states[-1]), found.logits)
    embedded = model.get_input_embeddings()(tokens)
    assert torch.equal(model(inputs_embeds=embedded).logits, found.logits)
    loss, logits = model(tokens, labels=tokens, return_dict=False)
    assert loss.ndim == 0 and torch.equal(logits, found.logits)
    assert torch.equal(model(tokens, logits_to_keep=2).logits, found.logits[:, -2:])
    places = torch.tensor([0, 3, 4])
    assert torch.equal(model(tokens, logits_to_keep=places).logits, found.logits[:, places])
    model.config.output_hidden_states = True
    assert torch.equal(model(tokens).hidden_states[1], found.hidden_states[1])
    assert model(tokens, output_hidden_states=False).hidden_states is None
    with pytest.raises(ValueError, match="no matrix of attentions"):
        model(tokens, output_attentions=True)
    with pytest.raises(ValueError, match="one of input_ids and inputs_embeds"):
        model(tokens, inputs_embeds=embedded)


def test_hidden_states_of_padded_rows_stand_where_their_tokens_do() -> None:
    model, tokens = exported("griffin"), draw_tokens(1, 7)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    padded = model(tokens, attention_mask=mask, output_hidden_states=True).hidden_states
    alone = model(tokens[:, 2:], output_hidden_states=True).hidden_states
    for with_padding, without in zip(padded, alone, strict=True):
        torch.testing.assert_close(with_padding[:, 2:], without, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("hybrid-")])
def test_padding_changes_no_logits_of_a_hybrid_and_none_of_its_text(name: str) -> None:
    ours = make_model(case_config(name))
    model: Any = to_transformers(ours)
    model.eval()
    tokens = draw_tokens(2, 7)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        padded = model(tokens, attention_mask=mask).logits
        torch.testing.assert_close(padded[0, :4], ours(tokens[:1, :4])[0])
        torch.testing.assert_close(padded[1, 2:], ours(tokens[1:, 2:])[0])
    mask[0] = 1
    written = model.generate(tokens, attention_mask=mask, **GREEDY)
    for row, start in enumerate((0, 2)):
        (alone,) = generate(ours, tokens[row : row + 1, start:], max_new_tokens=GREEDY["max_new_tokens"])
        assert written[row, 7:].tolist() == alone


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="token_type_ids"):
        exported("hawk")(draw_tokens(1, 4), token_type_ids=draw_tokens(1, 4))


class Steps:
    """Counts how a model reads: whole texts, and one token a row."""

    def __init__(self, model: RecallfrontForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefills, self.steps = 0, 0
        ours = model.language_model
        prefill, step = ours.prefill, ours.step

        def count_prefill(*arguments: Any, **keywords: Any) -> Any:
            self.prefills += 1
            return prefill(*arguments, **keywords)

        def count_step(*arguments: Any) -> Any:
            self.steps += 1
            return step(*arguments)

        monkeypatch.setattr(ours, "prefill", count_prefill)
        monkeypatch.setattr(ours, "step", count_step)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padded", [False, True])
def test_generation_reads_each_token_once(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = exported(name), draw_tokens(2, 5)
    mask = torch.ones_like(tokens)
    if padded:
        mask[0, :2] = 0
    slow = model.generate(tokens, attention_mask=mask, use_cache=False, **GREEDY)
    count = Steps(model, monkeypatch)
    assert torch.equal(model.generate(tokens, attention_mask=mask, use_cache=True, **GREEDY), slow)
    assert (count.prefills, count.steps) == (1, GREEDY["max_new_tokens"] - 1)


def test_beams_are_those_of_the_whole_text() -> None:
    model, tokens = exported("griffin"), draw_tokens(2, 5)
    wanted: dict[str, Any] = GREEDY | {"num_beams": 3, "attention_mask": torch.ones_like(tokens)}
    assert torch.equal(
        model.generate(tokens, use_cache=True, **wanted), model.generate(tokens, use_cache=False, **wanted)
    )


def test_what_would_cut_a_state_back_is_refused() -> None:
    tokens = draw_tokens(1, 8)
    with pytest.raises(ValueError, match="not supported with stateful models"):
        exported("hawk").generate(tokens, prompt_lookup_num_tokens=3, **GREEDY)


def test_generation_from_embeddings_is_refused_by_transformers() -> None:
    model = exported("hawk")
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(inputs_embeds=model.get_input_embeddings()(draw_tokens(1, 4)), **GREEDY)


@pytest.mark.parametrize("name", ("attention", "attention-none"))  # tied and untied
def test_resized_embeddings(name: str, tmp_path: Path) -> None:
    model, tokens = exported(name), draw_tokens(1, 6)
    before = model(tokens).logits
    model.get_input_embeddings().weight.requires_grad_(False)
    model.resize_token_embeddings(18, pad_to_multiple_of=10)
    assert not model.get_input_embeddings().weight.requires_grad
    if model.get_output_embeddings() is not None:
        assert model.get_output_embeddings().out_features == 20
    after = model(torch.cat([tokens, torch.tensor([[19]])], dim=1)).logits
    assert after.shape == (1, 7, 20) and after.isfinite().all()
    torch.testing.assert_close(after[:, :6, :17], before)
    model.save_pretrained(tmp_path)
    assert torch.equal(from_pretrained(tmp_path)(tokens).logits, model(tokens).logits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_embeddings_of_a_model_on_a_gpu_are_resized_there() -> None:
    model = exported("attention-none").cuda()
    model.resize_token_embeddings(20)
    assert model(draw_tokens(1, 6).cuda()).logits.shape == (1, 6, 20)


def test_a_loaded_model_that_is_saved_again_still_leads_here(tmp_path: Path) -> None:
    save_pretrained(make_model(case_config("hawk"), torch.float32), tmp_path / "first")
    from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    names = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert "modeling_recallfront.py" in names
    assert names == sorted(file.name for file in (tmp_path / "second").iterdir())


def gradients(model: Any, tokens: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("way", ["attribute", "method"])
# transformers' name before 6
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_activation_checkpointing_changes_no_gradient(way: str) -> None:
    model, tokens = exported("griffin").train(), draw_tokens(2, 9)
    plain = gradients(model, tokens)
    if way == "attribute":
        model.gradient_checkpointing = True
    else:
        model.gradient_checkpointing_enable()
    assert model.supports_gradient_checkpointing and model.language_model.checkpoint_activations
    for with_checkpoints, without in zip(gradients(model, tokens), plain, strict=True):
        assert torch.equal(with_checkpoints, without)


def test_tools_read_the_size_off_the_configuration() -> None:
    config = exported("attention-none").config
    assert (config.hidden_size, config.num_attention_heads, config.tie_word_embeddings) == (16, 1, False)
