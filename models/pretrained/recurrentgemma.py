"""Griffin and Hawk weights under the names of the released RecurrentGemma PyTorch code, both ways."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from recallfront.models.building import build
from recallfront.models.checkpoint import check_parameters
from recallfront.models.configs import Architecture, parse_config
from recallfront.models.language_model import LanguageModel


def load_recurrentgemma(
    parameters: Mapping[str, Tensor],
    *,
    attention_window_size: int = 2048,
    embeddings_scale_by_sqrt_dim: bool = True,
    logits_soft_cap: float = 30.0,
) -> LanguageModel:
    """The model whose released PyTorch parameters these are; sizes and layer pattern are read off the names
    and shapes.

    attention_window_size is the released code's, whose queries see that many keys and their own. Without
    attention layers it is a Hawk. Raises ValueError if parameters are missing, left over or of the wrong
    shape.
    """
    config = _config(parameters, attention_window_size, embeddings_scale_by_sqrt_dim, logits_soft_cap)
    model = build(config)
    expected = {name: tensor.shape for name, tensor in to_recurrentgemma(model).items()}
    check_parameters({name: tuple(shape) for name, shape in expected.items()}, dict(parameters))
    model.to(parameters["embedder.input_embedding"].dtype)
    model.load_state_dict(_to_ours(parameters, config))
    return model


def to_recurrentgemma(model: LanguageModel, *, gradients: bool = False) -> dict[str, Tensor]:
    """The model's parameters, or their gradients, under the released names and in the released shapes."""
    tensors = {
        name: parameter.grad if gradients else parameter.detach()
        for name, parameter in model.named_parameters()
    }
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing:
        raise ValueError(f"no gradient on {', '.join(missing)}; run backward first")
    ours = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    released = {
        "embedder.input_embedding": ours["embedding.weight"],
        "final_norm.scale": ours["final_norm.scale"],
    }
    for index, letter in enumerate(model.config.layers):
        here = {name.removeprefix(f"layers.{index}."): tensor for name, tensor in ours.items()}
        block = _recurrent_out(here) if letter == "R" else _attention_out(here)
        block |= _shared_out(here)
        released |= {f"blocks.{index}.{name}": tensor for name, tensor in block.items()}
    return released


def _config(
    parameters: Mapping[str, Tensor], window_size: int, scale_embeddings: bool, soft_cap: float
) -> Architecture:
    """The sizes, off the shapes."""
    blocks = {int(match[1]) for name in parameters if (match := re.match(r"blocks\.(\d+)\.", name))}
    embedding = parameters.get("embedder.input_embedding")
    if embedding is None or embedding.ndim != 2 or not blocks:
        raise ValueError(
            "the parameters do not fit the model; missing: embedder.input_embedding or blocks.0.*"
        )
    layers = range(max(blocks) + 1)
    attention = [i for i in layers if f"blocks.{i}.attention_block.proj_q.weight" in parameters]
    recurrent = [i for i in layers if f"blocks.{i}.recurrent_block.rg_lru.a_gate.w" in parameters]
    width = embedding.shape[1]
    common = {
        "vocab_size": embedding.shape[0],
        "width": width,
        "pattern": "".join("W" if i in attention else "R" for i in layers),
        "mlp_expansion": parameters["blocks.0.mlp_block.ffw_down.weight"].shape[1] / width
        if "blocks.0.mlp_block.ffw_down.weight" in parameters
        else 3,
        "scale_embeddings": scale_embeddings,
        "logits_soft_cap": soft_cap,
        "lambda_init": "recurrentgemma",
    }
    if recurrent:
        gates = parameters[f"blocks.{recurrent[0]}.recurrent_block.rg_lru.a_gate.w"]
        common |= {"num_heads": gates.shape[0], "lru_width": gates.shape[0] * gates.shape[1]}
    if not attention:
        return parse_config({"architecture": "hawk", **common})
    if not recurrent:
        keys = parameters.get(f"blocks.{attention[0]}.attention_block.proj_k.weight")
        common["num_heads"] = width // keys.shape[0] if keys is not None else 1
    return parse_config({"architecture": "griffin", **common, "window_size": window_size + 1})


def _to_ours(parameters: Mapping[str, Tensor], config: Architecture) -> dict[str, Tensor]:
    ours = {
        "embedding.weight": parameters["embedder.input_embedding"],
        "final_norm.scale": parameters["final_norm.scale"],
    }
    for index, letter in enumerate(config.layers):
        prefix = f"blocks.{index}."
        here = {
            name.removeprefix(prefix): tensor
            for name, tensor in parameters.items()
            if name.startswith(prefix)
        }
        block = _recurrent_in(here) if letter == "R" else _attention_in(here)
        up, up_bias = here["mlp_block.ffw_up.w"], here["mlp_block.ffw_up.b"]
        block |= {
            "mixer_norm.scale": here["temporal_pre_norm.scale"],
            "mlp_norm.scale": here["channel_pre_norm.scale"],
            # (2, D, hidden) -> (2 hidden, D), the gated half first
            "mlp.up.weight": up.transpose(1, 2).flatten(0, 1),
            "mlp.up.bias": up_bias.flatten(),
            "mlp.down.weight": here["mlp_block.ffw_down.weight"],
            "mlp.down.bias": here["mlp_block.ffw_down.bias"],
        }
        ours |= {f"layers.{index}.{name}": tensor for name, tensor in block.items()}
    return ours


def _shared_out(here: dict[str, Tensor]) -> dict[str, Tensor]:
    up = here["mlp.up.weight"]
    return {
        "temporal_pre_norm.scale": here["mixer_norm.scale"],
        "channel_pre_norm.scale": here["mlp_norm.scale"],
        "mlp_block.ffw_up.w": up.view(2, -1, up.shape[1]).transpose(1, 2),
        "mlp_block.ffw_up.b": here["mlp.up.bias"].view(2, 1, 1, -1),
        "mlp_block.ffw_down.weight": here["mlp.down.weight"],
        "mlp_block.ffw_down.bias": here["mlp.down.bias"],
    }


def _attention_in(here: dict[str, Tensor]) -> dict[str, Tensor]:
    projections = [here[f"attention_block.proj_{name}.weight"] for name in "qkv"]
    return {
        "mixer.qkv.weight": torch.cat(projections),
        "mixer.out.weight": here["attention_block.proj_final.weight"],
        "mixer.out.bias": here["attention_block.proj_final.bias"],
    }


def _attention_out(here: dict[str, Tensor]) -> dict[str, Tensor]:
    qkv, width = here["mixer.qkv.weight"], here["mixer.out.weight"].shape[1]
    shared = (qkv.shape[0] - width) // 2
    q, k, v = torch.split(qkv, [width, shared, shared])
    return {
        "attention_block.proj_q.weight": q,
        "attention_block.proj_k.weight": k,
        "attention_block.proj_v.weight": v,
        "attention_block.proj_final.weight": here["mixer.out.weight"],
        "attention_block.proj_final.bias": here["mixer.out.bias"],
    }


def _recurrent_in(here: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "recurrent_block."
    gates = [f"{prefix}rg_lru.{name}_gate." for name in ("a", "input")]
    return {
        "mixer.branches.weight": torch.cat([here[f"{prefix}linear_{name}.weight"] for name in "yx"]),
        "mixer.branches.bias": torch.cat([here[f"{prefix}linear_{name}.bias"] for name in "yx"]),
        "mixer.conv.taps": here[f"{prefix}conv_1d.w"].T,
        "mixer.conv.bias": here[f"{prefix}conv_1d.b"],
        "mixer.lru.weight": torch.cat([here[f"{gate}w"] for gate in gates], dim=2),
        "mixer.lru.bias": torch.cat([here[f"{gate}b"] for gate in gates], dim=1),
        "mixer.lru.p": here[f"{prefix}rg_lru.a_param"],
        "mixer.out.weight": here[f"{prefix}linear_out.weight"],
        "mixer.out.bias": here[f"{prefix}linear_out.bias"],
    }


def _recurrent_out(here: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = here["mixer.branches.weight"].chunk(2)
    biases = here["mixer.branches.bias"].chunk(2)
    gate_weights = here["mixer.lru.weight"].chunk(2, dim=2)
    gate_biases = here["mixer.lru.bias"].chunk(2, dim=1)
    block = {
        "conv_1d.w": here["mixer.conv.taps"].T,
        "conv_1d.b": here["mixer.conv.bias"],
        "rg_lru.a_param": here["mixer.lru.p"],
        "linear_out.weight": here["mixer.out.weight"],
        "linear_out.bias": here["mixer.out.bias"],
    }
    for name, weight, bias in zip("yx", weights, biases, strict=True):
        block |= {f"linear_{name}.weight": weight, f"linear_{name}.bias": bias}
    for name, weight, bias in zip(("a", "input"), gate_weights, gate_biases, strict=True):
        block |= {f"rg_lru.{name}_gate.w": weight, f"rg_lru.{name}_gate.b": bias}
    return {f"recurrent_block.{name}": tensor for name, tensor in block.items()}
