"""Low-rank adapters (arXiv:2106.09685) through `peft`, an optional extra: put in, and merged into the weights again.

peft is imported where it is first used, since few installations have it.
"""

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from recallfront.models.language_model import LanguageModel


def add_lora(
    model: LanguageModel,
    *,
    rank: int,
    alpha: int,
    targets: Sequence[str],
    seed: int = 0,
    train_whole: Collection[str] = (),
) -> None:
    """Freeze the model and put an adapter beside each linear map whose name ends with one of `targets`, in place.

    seed: of the adapters' first weights. train_whole: names of parameters that stay trainable (those that a
    linearization adds). Raises ValueError if
    no map has such a name, or `peft` is missing.
    """
    if find_spec("peft") is None:
        raise ValueError("LoRA needs peft: pip install recallfront[lora]")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(f"targets: the model has no linear map {unknown[0]!r}; it has {', '.join(known)}")
    # their weights are read beside the module, which an adapter would not see
    if unfit := [target for target in targets if target == "unembedding"]:
        raise ValueError(f"targets: {unfit[0]!r} can have no adapter; train_whole trains it")
    from peft import LoraConfig, inject_adapter_in_model

    named = dict(model.named_parameters())  # before the adapters change the names
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):  # peft draws from PyTorch's own generator
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name in train_whole:
        named[name].requires_grad_()


def merge_lora(model: LanguageModel) -> None:
    """Add every adapter to its weight and take it out again, in place; a model without adapters stays as it is."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            adapted: Any = module
            adapted.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, adapted.base_layer)
    model.requires_grad_()
