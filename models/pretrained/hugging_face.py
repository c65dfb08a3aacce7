"""Our models as causal language models of the transformers library, so that its tools can load a picked one."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from recallfront.models.building import assemble
from recallfront.models.configs import parse_config
from recallfront.models.language_model import LanguageModel

_BRIDGE = "modeling_recallfront"  # the module in the folder that leads to this one


class RecallfrontConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Our configuration, in the key `recallfront`."""

    model_type = "recallfront"

    def __init__(self, recallfront: dict[str, Any] | None = None, **keywords: Any) -> None:
        self.recallfront = recallfront or {}
        self.vocab_size = self.recallfront.get("vocab_size")
        self.num_hidden_layers = self.recallfront.get("num_layers")
        if rows := self.recallfront.get(
            "learned_positions"
        ):  # tools cut longer texts; without it there is no longest
            self.max_position_embeddings = rows
        keywords.setdefault(
            "use_cache", False
        )  # our states are no cache of theirs: generation reads all again
        super().__init__(**keywords)


class RecallfrontForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """One of our models behind the interface of transformers; `language_model` is the model itself."""

    config_class = RecallfrontConfig
    main_input_name = "input_ids"

    def __init__(self, config: RecallfrontConfig) -> None:
        super().__init__(config)
        self.language_model = assemble(parse_config(config.recallfront))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Weights come from a checkpoint."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.language_model.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **ignored: Any,
    ) -> CausalLMOutput:
        """Logits (B, T, vocab), and the mean next-token loss where there are labels (-100: not counted).

        attention_mask (B, T): 0 where a token is padding, on either side.
        """
        if attention_mask is None or bool(attention_mask.all()):
            logits = self.language_model(input_ids)
        else:
            logits = self._padded(input_ids, attention_mask.bool())
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **ignored: Any
    ) -> dict[str, Any]:
        """The whole text at every token: our states are no cache of theirs."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _padded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Each row's own tokens moved to the front, where padding after them cannot reach them, and back."""
        order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
        logits: Tensor = self.language_model(tokens.gather(1, order))
        return logits.gather(1, order.argsort(dim=1)[..., None].expand_as(logits))


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
    wrapped, folder = to_transformers(model), Path(folder)
    wrapped.config.auto_map = {
        "AutoConfig": f"{_BRIDGE}.RecallfrontConfig",
        "AutoModelForCausalLM": f"{_BRIDGE}.RecallfrontForCausalLM",
    }
    wrapped.save_pretrained(folder)
    (folder / f"{_BRIDGE}.py").write_text(
        "from recallfront.models.pretrained.hugging_face import RecallfrontConfig, RecallfrontForCausalLM\n"
    )
    return folder


def from_pretrained(folder: str | Path) -> RecallfrontForCausalLM:
    """The model that `save_pretrained` wrote."""
    return RecallfrontForCausalLM.from_pretrained(folder)


def register_auto_classes() -> None:
    """Let transformers' AutoModelForCausalLM and AutoConfig find our models."""
    AutoConfig.register("recallfront", RecallfrontConfig, exist_ok=True)
    AutoModelForCausalLM.register(RecallfrontConfig, RecallfrontForCausalLM, exist_ok=True)
