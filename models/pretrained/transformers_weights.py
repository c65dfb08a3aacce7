"""Pretrained softmax models of the transformers library as models of ours, and their linearization."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recallfront.models import configs
from recallfront.models.building import assemble
from recallfront.models.checkpoint import check_parameters
from recallfront.models.configs import Architecture, parse_config
from recallfront.models.configs.compositions import HYBRID
from recallfront.models.language_model import LanguageModel
from recallfront.models.pretrained.linearizing import adopt, attention_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Settings of a configuration that change no logit of a model that is evaluated.
_NO_MATTER = frozenset(
    """
    _attn_implementation _model_name_or_path _name_or_path architectures attention_dropout attn_pdrop bos_token_id
    chunk_size_feed_forward dtype embd_pdrop eos_token_id id2label initializer_range label2id
    max_position_embeddings model_type n_ctx output_attentions output_hidden_states pad_token_id pretraining_tp
    problem_type reorder_and_upcast_attn resid_pdrop return_dict summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params torch_dtype transformers_version
    unk_token_id use_cache
    """.split()
)
# Settings that the readers below take over, or refuse in words of their own.
_READ = frozenset(
    """
    activation_function attention_bias head_dim hidden_act hidden_size intermediate_size layer_norm_epsilon mlp_bias
    n_embd n_head n_inner n_layer n_positions num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps
    rope_parameters rope_scaling rope_theta scale_attn_by_inverse_layer_idx scale_attn_weights sliding_window
    tie_word_embeddings vocab_size
    """.split()
)


def from_transformers(model: "PreTrainedModel") -> LanguageModel:
    """The same model, with the same logits, as one of ours (architecture `attention`).

    A half-precision model is read into float32: our norms hold their gain less 1, which half precision would round.

    Reads the LLaMA family (RMSNorm, RoPE, SwiGLU, grouped queries, no biases) and GPT-2. Raises ValueError if the
    model is of another kind, or has a setting, named in the error, that changes its logits and that ours lacks.
    """
    readers = {"llama": _read_llama, "mistral": _read_llama, "gpt2": _read_gpt2}
    kind = model.config.model_type
    if kind not in readers:
        raise ValueError(f"model_type is {kind!r}; it may be {', '.join(sorted(readers))}")
    _refuse_unknown(model.config)
    dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    theirs = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    config, weights = readers[kind](model.config, theirs)
    ours = assemble(config).to(dtype)
    check_parameters({name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}, weights)
    ours.load_state_dict(weights)
    return ours


def linearize(
    model: "PreTrainedModel | LanguageModel", architecture: str = "grouped", *, seed: int = 0, **knobs: Any
) -> LanguageModel:
    """Replace softmax attention by another mixer, keep every other weight, and train on from there.

    architecture: any but `attention`, with its knobs (of a hybrid, `mixers`); `pattern` may leave some layers attention
    (A, W). What is kept of the attention itself: see `linearizing.adopt`; if no knob says otherwise, what keeps the
    most of it is taken. Raises ValueError if the architecture or a knob does not fit.
    """
    source = model if isinstance(model, LanguageModel) else from_transformers(model)
    return adopt(source, _linear_config(source, architecture, knobs), seed).model


def _linear_config(source: LanguageModel, name: str, knobs: Mapping[str, Any]) -> Architecture:
    kind = configs.architecture(name)
    itself = {source.config.architecture} - {HYBRID}  # one hybrid may become another
    if kind is None or name in itself:
        allowed = sorted(configs.architectures().keys() - itself)
        raise ValueError(f"architecture is {name!r}; it may be {', '.join(allowed)}")
    shared = {field: getattr(source.config, field) for field in Architecture.model_fields}
    del shared["pattern"]
    if "mlp_biases" in kind.model_fields and source.config.mlp_bias != source.config.biases:
        shared["mlp_biases"] = source.config.mlp_bias
    settings = shared | kind.keeping(attention_of(source), knobs) | {"architecture": name}
    return parse_config(settings)


def _attention(**settings: Any) -> Architecture:
    return parse_config({"architecture": "attention", **settings})


def _refuse(unfit: Mapping[str, bool]) -> None:
    found = [name for name, is_there in unfit.items() if is_there]
    if found:
        raise ValueError(f"the model has {', '.join(found)}; none of that can be read")


def _refuse_unknown(config: Any) -> None:
    """Raise ValueError if a setting that no reader knows differs from what its class has without being told."""
    usual = type(config)().to_dict()
    for name, value in config.to_dict().items():
        if name not in _NO_MATTER | _READ and value != usual.get(name):
            raise ValueError(
                f"the model's setting {name}={value!r} is not known to be without effect (usually it is "
                f"{usual.get(name)!r}); a model with it cannot be read"
            )


def _read_llama(theirs: Any, weights: dict[str, Tensor]) -> tuple[Architecture, dict[str, Tensor]]:
    rope = getattr(theirs, "rope_parameters", None) or {}
    width, heads = theirs.hidden_size, theirs.num_attention_heads
    _refuse(
        {
            "biases": any(name.endswith(".bias") for name in weights),
            "a rotary scaling": rope.get("rope_type", "default") != "default",
            "partly turned heads": rope.get("partial_rotary_factor", 1.0) != 1.0,
            "heads of another width": (getattr(theirs, "head_dim", None) or width // heads) * heads != width,
            "another activation than silu": theirs.hidden_act != "silu",
            "a sliding window": getattr(theirs, "sliding_window", None) is not None,
        }
    )
    theta: Any = rope.get("rope_theta") or getattr(theirs, "rope_theta", 10000.0)
    config = _attention(
        vocab_size=theirs.vocab_size,
        width=width,
        num_heads=heads,
        num_kv_heads=theirs.num_key_value_heads,
        num_layers=theirs.num_hidden_layers,
        pattern="A",
        positions="rope",
        rope_theta=theta,
        norm_eps=theirs.rms_norm_eps,
        mlp="swiglu",
        mlp_expansion=theirs.intermediate_size / width,
        tied_embeddings=theirs.tie_word_embeddings,
    )
    ours = {
        "embedding.weight": weights["model.embed_tokens.weight"],
        "final_norm.scale": weights["model.norm.weight"] - 1,  # our gain is 1 + scale
    }
    if not theirs.tie_word_embeddings:
        ours["unembedding.weight"] = weights["lm_head.weight"]
    for index in range(theirs.num_hidden_layers):
        here, there = f"layers.{index}.", f"model.layers.{index}."
        attention = [weights[f"{there}self_attn.{name}_proj.weight"] for name in "qkv"]
        mlp = [weights[f"{there}mlp.{name}_proj.weight"] for name in ("gate", "up")]
        ours |= {
            f"{here}mixer_norm.scale": weights[f"{there}input_layernorm.weight"] - 1,
            f"{here}mixer.qkv.weight": torch.cat(attention),
            f"{here}mixer.out.weight": weights[f"{there}self_attn.o_proj.weight"],
            f"{here}mlp_norm.scale": weights[f"{there}post_attention_layernorm.weight"] - 1,
            f"{here}mlp.up.weight": torch.cat(mlp),
            f"{here}mlp.down.weight": weights[f"{there}mlp.down_proj.weight"],
        }
    return config, ours


def _read_gpt2(theirs: Any, weights: dict[str, Tensor]) -> tuple[Architecture, dict[str, Tensor]]:
    _refuse(
        {
            "another activation than gelu_new": theirs.activation_function != "gelu_new",
            "attention scaled by the layer": theirs.scale_attn_by_inverse_layer_idx,
            "unscaled attention": not theirs.scale_attn_weights,
        }
    )
    config = _attention(
        vocab_size=theirs.vocab_size,
        width=theirs.n_embd,
        num_heads=theirs.n_head,
        num_layers=theirs.n_layer,
        pattern="A",
        positions="none",
        learned_positions=theirs.n_positions,
        biases=True,
        norm="layer",
        norm_eps=theirs.layer_norm_epsilon,
        mlp="gelu",
        mlp_expansion=(theirs.n_inner or 4 * theirs.n_embd) / theirs.n_embd,
        tied_embeddings=theirs.tie_word_embeddings,
    )
    ours = {
        "embedding.weight": weights["transformer.wte.weight"],
        "position_table.weight": weights["transformer.wpe.weight"],
        "final_norm.weight": weights["transformer.ln_f.weight"],
        "final_norm.bias": weights["transformer.ln_f.bias"],
    }
    if not theirs.tie_word_embeddings:
        ours["unembedding.weight"] = weights["lm_head.weight"]
    names = {
        "mixer_norm": "ln_1",
        "mixer.qkv": "attn.c_attn",
        "mixer.out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for index in range(theirs.n_layer):
        for our_name, their_name in names.items():
            weight = weights[f"transformer.h.{index}.{their_name}.weight"]
            # GPT-2 keeps its matrices as (in, out)
            ours[f"layers.{index}.{our_name}.weight"] = weight.T if weight.ndim == 2 else weight
            ours[f"layers.{index}.{our_name}.bias"] = weights[f"transformer.h.{index}.{their_name}.bias"]
    return config, ours
