"""No kernel's gradient can be differentiated: that is an error, where the gradient that comes in is a constant too."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.test_second_derivatives import CASES, Case

HEADS = (1, 3, 2, 16)
WITH_KERNELS: dict[str, Case] = {
    name: CASES[name] for name in ("linear_scan", "short_conv", "gated_product", "gated_halves", "rms_norm")
} | {
    "rg_lru": (CASES["rg_lru"][0], [(1, 3, 16), (1, 16, 32), (1, 32), (16,)]),
    "taylor_attention": (CASES["taylor_attention"][0], [HEADS] * 3),
    "grouped_attention": (CASES["grouped_attention"][0], [HEADS] * 3 + [(2, 3)]),
    "window_attention": (CASES["window_attention"][0], [HEADS] * 3),
}


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_an_error(name: str, device: torch.device) -> None:
    operator, shapes = WITH_KERNELS[name]
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
    found = operator(*(-F.softplus(x) for x in before), backend="triton")
    loss: Tensor = (found[0] if isinstance(found, tuple) else found).sum()
    slopes = torch.autograd.grad(loss, before, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        torch.autograd.grad(torch.stack([x.square().sum() for x in slopes]).sum(), before)
