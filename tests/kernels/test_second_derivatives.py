"""Derivatives of derivatives: right, or an error; never without a term that nobody misses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.chunks import normalised
from recallfront.kernels.feature_attention.operator import feature_attention
from recallfront.kernels.gated_delta_rule.operator import gated_delta_rule
from recallfront.kernels.gated_linear_attention.operator import gated_linear_attention
from recallfront.kernels.gated_product.operator import gated_halves, gated_product
from recallfront.kernels.generalized_delta_rule.operator import generalized_delta_rule
from recallfront.kernels.grouped_attention.operator import grouped_attention
from recallfront.kernels.linear_scan.operator import linear_scan
from recallfront.kernels.rg_lru.operator import rg_lru
from recallfront.kernels.rms_norm.operator import rms_norm
from recallfront.kernels.short_conv.operator import short_conv
from recallfront.kernels.taylor_attention.operator import taylor_attention
from recallfront.kernels.window_attention.operator import window_attention

Operator = Callable[..., Any]
Case = tuple[Operator, list[tuple[int, ...]]]

HEADS = (1, 70, 2, 4)  # past a block of tokens

# each operator, and the shapes of what it is differentiated by
CASES: dict[str, Case] = {
    "linear_scan": (linear_scan, [(1, 9, 3)] * 2),
    "rg_lru": (rg_lru, [(1, 9, 4), (2, 2, 4), (2, 4), (4,)]),
    "rg_lru from a state": (
        lambda *x, backend: rg_lru(*x[:4], initial_state=x[4], backend=backend),
        [(1, 9, 4), (2, 2, 4), (2, 4), (4,), (1, 4)],
    ),
    "short_conv": (short_conv, [(1, 9, 3), (3, 4)]),
    "gated_product": (lambda gate, x, backend: gated_product(gate, x, "gelu", backend=backend), [(3, 5)] * 2),
    "gated_halves": (lambda packed, backend: gated_halves(packed, "silu", backend=backend), [(3, 6)]),
    "rms_norm": (rms_norm, [(3, 5), (5,)]),
    "gated_linear_attention, a decay a head": (gated_linear_attention, [HEADS] * 3 + [HEADS[:3]]),
    "gated_linear_attention, a decay a key": (gated_linear_attention, [HEADS] * 4),
    "gated_delta_rule": (gated_delta_rule, [HEADS] * 3 + [HEADS[:3]] * 2),
    "gated_delta_rule, a decay a key": (gated_delta_rule, [HEADS] * 3 + [HEADS[:3], HEADS]),
    "generalized_delta_rule": (generalized_delta_rule, [HEADS] * 6),
    "feature_attention": (feature_attention, [HEADS] * 3),
    "taylor_attention": (taylor_attention, [HEADS] * 3),
    "grouped_attention": (
        lambda *x, backend: grouped_attention(*x[:3], group_size=8, conv_taps=x[3], backend=backend),
        [HEADS] * 3 + [(2, 3)],
    ),
    "window_attention": (
        lambda *x, backend: window_attention(*x, window_size=8, backend=backend),
        [HEADS] * 3,
    ),
    "attention": (window_attention, [HEADS] * 3),
    "normalised": (
        lambda x, backend: F.normalize(x, dim=-1) if backend == "reference" else normalised(x),
        [(3, 5)],
    ),
}


def second_derivatives(operator: Operator, given: list[Tensor], **keywords: str) -> list[Tensor]:
    """Of what comes before the operator: the gradient that reaches the operator is the constant of a sum."""
    before = [x.clone().requires_grad_() for x in given]
    found = operator(*(-F.softplus(x) for x in before), **keywords)
    loss = sum(x.sum() for x in (found if isinstance(found, tuple) else (found,)))
    assert isinstance(loss, Tensor)
    slopes = torch.autograd.grad(loss, before, create_graph=True)
    penalty = torch.stack([x.square().sum() for x in slopes]).sum()
    return list(torch.autograd.grad(penalty, before))


def check_second_derivatives(operator: Operator, shapes: list[tuple[int, ...]], backend: str) -> None:
    """Those of the definition, or an error."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator, dtype=torch.float64) - 1 for shape in shapes]
    expected = second_derivatives(operator, given, backend="reference")
    try:
        found = second_derivatives(operator, given, backend=backend)
    except (RuntimeError, NotImplementedError) as error:
        assert any(words in str(error) for words in ("cannot be differentiated again", "not implemented"))
        return
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_right_or_an_error(name: str) -> None:
    check_second_derivatives(*CASES[name], backend="auto")
