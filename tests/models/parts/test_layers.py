"""What passes through a layer in training is seen by whoever watches it."""

import pytest
import torch
from torch import Tensor, nn

from recallfront.models import build, parse_config


@pytest.mark.parametrize("kind", ["geglu", "swiglu"])
def test_hooks_see_the_channel_mixer_and_change_nothing(kind: str) -> None:
    config = parse_config(
        {
            "architecture": "hawk",
            "vocab_size": 16,
            "width": 8,
            "num_heads": 2,
            "mlp_expansion": 2.0,
            "mlp": kind,
        }
    )
    model = build(config, 0)
    tokens = torch.randint(0, 16, (2, 9), generator=torch.Generator().manual_seed(0))
    bare = _gradients(model, tokens)
    seen: list[str] = []

    def watch(name: str) -> None:
        def hook(*_: object) -> None:
            seen.append(name)

        module = model.get_submodule(name)
        module.register_forward_hook(hook)

    names = [name for name, _ in model.named_modules() if ".mlp" in name]
    for name in names:
        watch(name)
    watched = _gradients(model, tokens)
    assert sorted(seen) == sorted(names)
    for ours, theirs in zip(bare, watched, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def _gradients(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(tokens).square().mean(), list(model.parameters())))
