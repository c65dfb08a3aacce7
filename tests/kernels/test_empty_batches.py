"""A batch of no rows gives no rows, and gradients of 0: the last of several workers may have none."""

import pytest
import torch

from tests.kernels.test_second_derivatives import CASES

NAMES = ["linear_scan", "rg_lru", "short_conv", "window_attention", "attention"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_no_rows(name: str, backend: str) -> None:
    operator, shapes = CASES[name]
    rows = shapes[0]
    given = [torch.ones((0, *size[1:]) if size == rows else size).requires_grad_() for size in shapes]
    found = operator(*given, backend=backend)
    out = found[0] if isinstance(found, tuple) else found
    assert out.shape == (0, *rows[1:])
    for gradient in torch.autograd.grad(out.sum(), given):
        assert not gradient.any()
