"""Gradients that the models' parts write out are errors if they are to be differentiated again."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recallfront.models.parts.answers import answered
from recallfront.models.parts.gating import add_gated_mlp, gated
from recallfront.models.parts.layers import rotate

ONES = torch.ones(6, 4)

PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gated": lambda x: gated(x, x, "silu"),
    "add_gated_mlp": lambda x: add_gated_mlp(x, (ONES[0], 1e-6), (ONES, None), (ONES.T[:, :3], None), "gelu"),
    "rotate": lambda x: rotate(x[None, :, None], 0, 4, 8),
    "answered": lambda x: answered(x, ONES, torch.zeros(2, dtype=torch.long), None).loss,
}


@pytest.mark.parametrize("name", PARTS)
def test_an_error(name: str) -> None:
    before = torch.linspace(-1, 1, 8).view(2, 4).requires_grad_()
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(PARTS[name](before.sin()).sum(), before, create_graph=True)
