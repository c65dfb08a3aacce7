"""Unusual arguments: a right answer or one clear sentence, never a wrong answer."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.gated_product.operator import gated_product
from recallfront.kernels.grouped_attention.operator import (
    grouped_attention,
    grouped_attention_step,
    grouped_attention_tree,
)
from recallfront.kernels.linear_scan.operator import linear_scan_step
from recallfront.kernels.rg_lru.operator import rg_lru, rg_lru_step
from recallfront.kernels.short_conv.operator import short_conv, short_conv_step
from recallfront.kernels.taylor_attention.operator import taylor_attention_extend
from recallfront.kernels.window_attention.operator import window_attention, window_attention_step

Run = Callable[[Backend], object]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_bias_in_every_other_place(device: torch.device) -> None:
    x, taps, state = normal(2, 5, 6).to(device), normal(6, 4).to(device), normal(2, 3, 6).to(device)
    bias = normal(12).to(device)[::2]
    whole, _ = short_conv(x, taps, bias=bias.contiguous(), activation="silu", backend="triton")
    assert torch.equal(short_conv(x, taps, bias=bias, activation="silu", backend="triton")[0], whole)
    token, _ = short_conv_step(x[:, 0], taps, state, bias=bias.contiguous(), backend="triton")
    assert torch.equal(short_conv_step(x[:, 0], taps, state, bias=bias, backend="triton")[0], token)
    slopes = []
    for given in (bias, bias.contiguous()):
        leaf = x.clone().requires_grad_()
        y, _ = short_conv(leaf, taps, bias=given, activation="silu", backend="triton")
        slopes.append(torch.autograd.grad(y.sum(), leaf)[0])
    assert torch.equal(*slopes)


def test_a_rate_in_every_other_place(device: torch.device) -> None:
    v, weight, bias = normal(2, 6).to(device), normal(3, 2, 4).to(device), normal(3, 4).to(device)
    p, state, starts = (
        normal(12).to(device)[::2],
        normal(2, 6).to(device),
        torch.zeros(2, 1, dtype=torch.bool, device=device),
    )
    rate = (-8 * F.softplus(p)).repeat_interleave(2)[::2]
    h, _ = rg_lru_step(v, weight, bias, p, state, starts=starts, backend="triton")
    assert torch.equal(
        rg_lru_step(v, weight, bias, p, state, starts=starts, rate=rate, backend="triton")[0], h
    )


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
def test_no_text_through_the_recurrence(backend: Backend, device: torch.device) -> None:
    v, weight, bias, p = (x.to(device) for x in (normal(0, 5, 6), normal(3, 2, 4), normal(3, 4), normal(6)))
    h, last = rg_lru(v, weight, bias, p, backend=backend)
    assert h.shape == (0, 5, 6)
    assert last.shape == (0, 6)


def _step(x: Tensor, state: Tensor, starts: Tensor) -> Run:
    return lambda backend: rg_lru_step(
        x, normal(3, 2, 4), normal(3, 4), normal(6), state, starts=starts, backend=backend
    )


_TOKEN, _STATE, _NEW = normal(2, 6), normal(2, 6, seed=1), torch.zeros(2, 1, dtype=torch.bool)
_X, _TAPS = normal(2, 5, 6), normal(6, 4)
_Q, _PAIR = normal(1, 5, 2, 4), torch.tensor([1.0, 3.0])
_SUMS, _RING, _LENGTHS = normal(1, 2, 4, 4), normal(1, 2, 3, 4), torch.tensor([4])
_SEEN = torch.ones(5, 5, dtype=torch.bool).tril()

REFUSED: dict[str, tuple[Run, str]] = {
    "a bias of one": (
        lambda b: short_conv_step(_TOKEN, _TAPS, normal(2, 3, 6), bias=normal(1), backend=b),
        "bias has shape",
    ),
    "a short state": (
        lambda b: short_conv_step(_TOKEN, _TAPS, normal(2, 1, 6), backend=b),
        "state has shape",
    ),
    "starts as numbers": (_step(_TOKEN, _STATE, _NEW.float()), "starts is torch.float32; it must be torch.bool"),
    "a scale a head": (
        lambda b: grouped_attention(_Q, _Q, _Q, group_size=2, cross_scale=_PAIR, backend=b),
        "cross_scale has shape",
    ),
    "no scale": (
        lambda b: grouped_attention(_Q, _Q, _Q, group_size=2, cross_scale=_PAIR[:0], backend=b),
        "cross_scale has shape",
    ),
    "a scale a head, step": (
        lambda b: grouped_attention_step(
            _Q[:, 0], _Q[:, 0], _Q[:, 0], _SUMS, _RING, _RING, _LENGTHS, cross_scale=_PAIR, backend=b
        ),
        "cross_scale has shape",
    ),
    "a scale a head, tree": (
        lambda b: grouped_attention_tree(
            _Q, _Q, _Q, _SUMS, _RING, _RING, _LENGTHS, torch.arange(4, 9)[None], _SEEN, cross_scale=_PAIR, backend=b
        ),
        "cross_scale has shape",
    ),
    "padding as numbers": (
        lambda b: taylor_attention_extend(
            _Q, _Q, _Q, normal(1, 2, 15, 5), 0.5, 1e-6, torch.zeros(1, 5), backend=b
        ),
        "padding is torch.float32; it must be torch.bool",
    ),
    "keys of no size": (
        lambda b: window_attention(_Q[..., :0], _Q[..., :0], _Q, backend=b),
        "head sizes must be at least 1",
    ),
    "no heads": (
        lambda b: window_attention(_Q[:, :, :0], _Q, _Q, backend=b),
        "head sizes must be at least 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(case: str, backend: Backend) -> None:
    run, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        run(backend)


Uncovered = Callable[[Backend, torch.device], object]


def _convolve(x: Tensor, taps: Tensor, state: Tensor) -> Uncovered:
    return lambda backend, device: short_conv(
        x.to(device), taps.to(device), initial_state=state.to(device), backend=backend
    )


def _convolve_token(x: Tensor, taps: Tensor, state: Tensor) -> Uncovered:
    return lambda backend, device: short_conv_step(*(t.to(device) for t in (x, taps, state)), backend=backend)


def _scan_token(x: Tensor, state: Tensor) -> Uncovered:
    return lambda backend, device: linear_scan_step(*(t.to(device) for t in (x, x, state)), backend=backend)


def _gate(x: Tensor) -> Uncovered:
    return lambda backend, device: gated_product(x.to(device), x.to(device), "silu", backend=backend)


def _attend_token(bias: Tensor) -> Uncovered:
    given = (_Q[:, 0], _Q[:, 0], _Q[:, 0], _RING, _RING, _LENGTHS)
    return lambda backend, device: window_attention_step(
        *(t.clone().to(device) for t in given), bias=bias.to(device), backend=backend
    )


UNCOVERED: dict[str, tuple[Uncovered, str]] = {
    "a first state of another type": (
        _convolve(_X.bfloat16(), _TAPS, normal(_X.shape[0], _TAPS.shape[1] - 1, _X.shape[2])),
        "one type for x, taps, bias and state",
    ),
    "a state of another type": (
        _convolve_token(_TOKEN.bfloat16(), _TAPS.bfloat16(), normal(2, 3, 6)),
        "one type for x, taps, bias and state",
    ),
    "a scan's state of 16 bits": (_scan_token(_TOKEN, _STATE.bfloat16()), "the state is torch.bfloat16"),
    "single numbers": (_gate(normal()), "single numbers"),
    "a bias to be learned": (
        _attend_token(torch.zeros(1, 1, 1, 3, requires_grad=True)),
        "a gradient is asked for",
    ),
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_not_covered_and_computed_without_a_kernel(case: str, device: torch.device) -> None:
    run, message = UNCOVERED[case]
    with pytest.raises(ValueError, match=message):
        run("triton", device)
    run("auto", device)
