"""Our models as causal language models of the transformers library, so that its tools can load a picked one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import ModelOutput

from recallfront.models.building import assemble
from recallfront.models.configs import parse_config
from recallfront.models.language_model import Embedding, LanguageModel
from recallfront.models.parts.layers import Drawn, Linear
from recallfront.models.parts.state import State

_BRIDGE = "modeling_recallfront"  # the module in the folder that leads to this one


class RecallfrontConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Our configuration, in the key `recallfront`; the names that tools look for are read off it."""

    model_type = "recallfront"

    def __init__(self, recallfront: dict[str, Any] | None = None, **keywords: Any) -> None:
        self.recallfront = recallfront or {}
        self.vocab_size = self.recallfront.get("vocab_size")
        self.hidden_size = self.recallfront.get("width")
        self.num_hidden_layers = self.recallfront.get("num_layers")
        self.num_attention_heads = self.recallfront.get("num_heads")
        # Tools cut longer texts; without a table of positions there is no longest.
        if rows := self.recallfront.get("learned_positions"):
            self.max_position_embeddings = rows
        keywords["tie_word_embeddings"] = self.recallfront.get("tied_embeddings", True)
        keywords["auto_map"] = {
            "AutoConfig": f"{_BRIDGE}.RecallfrontConfig",
            "AutoModelForCausalLM": f"{_BRIDGE}.RecallfrontForCausalLM",
        }
        super().__init__(**keywords)


@dataclass
class Read:
    """The text that a decode state stands for."""

    tokens: Tensor  # (B, T)
    mask: Tensor  # (B, T) bool: False at padding
    state: State

    def continues(self, tokens: Tensor, mask: Tensor) -> bool:
        """Whether tokens (B, T + 1) are this text and one token a row more: beams and their like change rows."""
        before = tokens[:, :-1]
        return (
            before.shape == self.tokens.shape
            and bool((before == self.tokens).all())
            and bool((mask[:, :-1] == self.mask).all())
            and bool(mask[:, -1].all())
        )


@dataclass
class RecallfrontOutput(CausalLMOutput):
    """Loss, logits and hidden states, and during generation what has been read."""

    read: Read | None = None


class RecallfrontForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """One of our models behind the interface of transformers; `language_model` is the model itself."""

    config_class = RecallfrontConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # A recurrent state cannot be cut back: assisted generation and prompt look-up are refused, not done wrongly.
    _is_stateful = True
    # transformers' Trainer gives `num_items_in_batch` to models that say so
    accepts_loss_kwargs = True

    def __init__(self, config: RecallfrontConfig) -> None:
        super().__init__(config)
        self.language_model = assemble(parse_config(config.recallfront))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a module as `build` does, from a generator that the global one seeds (`transformers.set_seed`)."""
        given = [getattr(p, "_is_hf_initialized", False) for p in module.parameters(recurse=False)]
        if isinstance(module, Drawn) and not (given and all(given)):
            module.initialise(Generator().manual_seed(int(torch.randint(2**62, ()))))

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.embedding = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.unembedding

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        return self.language_model.checkpoint_activations

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.language_model.checkpoint_activations = value

    # transformers' own tables are nn.Embedding, ours draw themselves
    def resize_token_embeddings(  # type: ignore[override]
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> nn.Module:
        """Keep the first rows, draw new ones as at the start; the configuration follows."""
        model = self.language_model
        if pad_to_multiple_of:
            new_num_tokens = model.config.vocab_size if new_num_tokens is None else new_num_tokens
            new_num_tokens = -(-new_num_tokens // pad_to_multiple_of) * pad_to_multiple_of
        if new_num_tokens is not None and new_num_tokens != model.config.vocab_size:
            values = model.config.model_dump() | {"vocab_size": new_num_tokens}
            model.config = parse_config(values)
            generator = Generator().manual_seed(int(torch.randint(2**62, ())))
            for table in (model.embedding, model.unembedding):
                if table is not None:
                    _resize(table, new_num_tokens, generator)
            self.config.recallfront = model.config.model_dump()
            self.config.vocab_size = new_num_tokens
        return model.embedding

    def save_pretrained(self, save_directory: Any, *arguments: Any, **keywords: Any) -> None:
        """As transformers does, and the line that leads from the folder to this package."""
        super().save_pretrained(save_directory, *arguments, **keywords)
        Path(save_directory, f"{_BRIDGE}.py").write_text(
            "from recallfront.models.pretrained.hugging_face import RecallfrontConfig, RecallfrontForCausalLM\n"
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        read: Read | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> RecallfrontOutput | tuple[Any, ...]:
        """Logits (B, T, vocab), and the next-token loss where there are labels (-100: not counted).

        The loss is the mean, or the sum over `num_items_in_batch`, which transformers' Trainer gives to average over
        all micro-batches of a step. attention_mask (B, T): 0 where a token is padding, on either side. position_ids
        (B, T) restart at 0 where a packed document starts. logits_to_keep: of the last tokens alone, or of those at
        the places in a tensor; 0: of all.

        Raises:
            ValueError: input_ids and inputs_embeds are both given or both missing, positions are given to
                padded rows that do not count each row's tokens from 0, or attentions are asked for.
        """
        if output_attentions:
            raise ValueError("output_attentions=True: these models compute no matrix of attentions")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give one of input_ids and inputs_embeds")
        output = RecallfrontOutput()
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        residuals: list[Tensor] | None = [] if output_hidden_states else None
        keeps_last = isinstance(logits_to_keep, int) and logits_to_keep == 1
        generates = use_cache and keeps_last and position_ids is None and not torch.is_grad_enabled()
        if generates and input_ids is not None and labels is None and residuals is None:
            output.logits, output.read = self._next(input_ids, attention_mask, read)
        else:
            given = inputs_embeds if input_ids is None else input_ids
            assert given is not None
            hidden = self._encode(given, attention_mask, position_ids, residuals)
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.language_model.unembed(hidden[:, kept])
            if labels is not None:
                output.loss = _loss(logits, labels, num_items_in_batch)
            output.logits = logits
            if residuals is not None:
                output.hidden_states = (*residuals, hidden)
        as_object = self.config.return_dict if return_dict is None else return_dict
        return output if as_object else tuple(output[name] for name in output if name != "read")

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        read: Read | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """The whole text, and the state that has read all but its last token where there is one."""
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "read": read,
            "use_cache": use_cache,
            "logits_to_keep": 1,
            # the configuration's default is for calls: with hidden states of the whole text none is read from the state
            "output_hidden_states": others.get("output_hidden_states", False),
        }

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *arguments: Any, **keywords: Any
    ) -> dict[str, Any]:
        kept: dict[str, Any] = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, *arguments, **keywords
        )
        return kept | {"read": getattr(outputs, "read", None)}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The state is ours: generation makes no cache of keys and values for it."""
        return False

    def _next(self, tokens: Tensor, mask: Tensor | None, read: Read | None) -> tuple[Tensor, Read]:
        """Logits (B, 1, vocab) after the last token, by one step where all before it has been read."""
        model = self.language_model
        seen = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        if read is not None and read.continues(tokens, seen):
            logits, state = model.step(tokens[:, -1], read.state)
            return logits[:, None], Read(tokens, seen, state)
        lengths = None if bool(seen.all()) else seen.sum(1)
        own = tokens.gather(1, _front(seen))
        logits, state = model.prefill(own, model.init_state(len(own)), lengths=lengths, last_only=True)
        return logits, Read(tokens, seen, state)

    def _encode(
        self,
        given: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        residuals: list[Tensor] | None,
    ) -> Tensor:
        """Hidden states (B, T, width) of tokens (B, T) or embeddings (B, T, width)."""
        model, embedded = self.language_model, given.ndim == 3
        if mask is None or bool(mask.all()):
            if positions is not None:
                positions = positions.expand(given.shape[:2])
            return model.encode(given, positions, embedded=embedded, residuals=residuals)
        seen = mask.bool()
        if positions is not None and not bool((positions == seen.cumsum(1) - 1)[seen].all()):
            raise ValueError("position_ids of padded rows must count each row's own tokens from 0")
        # Each row's own tokens move to the front, where the padding after them cannot reach them, and back.
        order = _front(seen)
        hidden = model.encode(_rows(given, order), embedded=embedded, residuals=residuals)
        back = order.argsort(dim=1)
        if residuals is not None:
            residuals[:] = [_rows(x, back) for x in residuals]
        return _rows(hidden, back)


def to_transformers(model: LanguageModel) -> RecallfrontForCausalLM:
    """The model behind the interface of transformers; the weights are shared, not copied."""
    with torch.device("meta"):
        wrapped = RecallfrontForCausalLM(RecallfrontConfig(recallfront=model.config.model_dump()))
    wrapped.language_model = model
    return wrapped


def save_pretrained(model: LanguageModel, folder: str | Path) -> Path:
    """Write the model as transformers reads it: `from_pretrained`, and its Auto classes once they are registered.

    Tools that register nothing (lm-eval) load it with trust_remote_code=True: one line in the folder sends them to
    this package, which must be installed.
    """
    to_transformers(model).save_pretrained(folder)
    return Path(folder)


def from_pretrained(folder: str | Path) -> RecallfrontForCausalLM:
    """The model that `save_pretrained` wrote."""
    return RecallfrontForCausalLM.from_pretrained(folder)


def register_auto_classes() -> None:
    """Let transformers' AutoModelForCausalLM and AutoConfig find our models."""
    AutoConfig.register("recallfront", RecallfrontConfig, exist_ok=True)
    AutoModelForCausalLM.register(RecallfrontConfig, RecallfrontForCausalLM, exist_ok=True)


def _loss(logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
    predicted, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
    if items is None:
        return F.cross_entropy(predicted, wanted)
    return F.cross_entropy(predicted, wanted, reduction="sum") / items


def _front(seen: Tensor) -> Tensor:
    """For each row of a mask (B, T), its tokens' places, those of the padding after them."""
    return (~seen).to(torch.int8).argsort(dim=1, stable=True)


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """x (B, T) or (B, T, width) with the tokens of each row in another order (B, T)."""
    return x.gather(1, order if x.ndim == 2 else order[..., None].expand(-1, -1, x.shape[2]))


def _resize(table: Embedding | Linear, rows: int, generator: Generator) -> None:
    """Give a table (vocab, width) another number of rows."""
    old = table.weight
    # drawn where the generator is
    table.weight = nn.Parameter(old.new_empty(rows, old.shape[1], device=generator.device))
    if isinstance(table, Linear):
        table.out_features = rows
    table.initialise(generator)
    table.weight = nn.Parameter(table.weight.detach().to(old.device), requires_grad=old.requires_grad)
    kept = min(rows, len(old))
    with torch.no_grad():
        table.weight[:kept] = old[:kept]
