"""Scans, convolution, norm and gate: their ceiling is the bandwidth of memory.

The kernels are imported where they are first used, since not every machine has Triton.
"""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.benchmarks.kernels.cases import (
    OURS,
    Candidates,
    Case,
    Contender,
    Peer,
    Setting,
    Tensors,
    both_modes,
)
from recallfront.kernels.gated_product.operator import gated_halves
from recallfront.kernels.linear_scan.reference import linear_scan_reference
from recallfront.kernels.rms_norm.operator import rms_norm

_HEADS = 16


def suite(setting: Setting) -> Iterator[Case]:
    """All cases, the scans of the targets first."""
    batch = setting.size(8, 1)
    for width in setting.sizes((1024, 4096), 32):
        for time in setting.sizes((2048, 8192, 16384), 70):
            yield from _linear_scan(setting, batch, time, width)
            yield from _rg_lru(setting, batch, time, width)
    yield from _short_conv(setting, batch, setting.size(8192, 40), setting.size(4096, 32))
    yield from _rms_norm(setting, setting.size(65536, 16), setting.size(2048, 32))
    yield from _gate(setting, setting.size(32768, 16), setting.size(4096, 32))


def _all_cuts(kernels: Any, run: Contender, *, walk: object, chain: object) -> Candidates:
    """As planned, and with either cut whatever the sizes, to see whether the plan chooses well."""

    def with_cut(cut: object) -> Contender:
        def launched() -> Tensors:
            with mock.patch.object(kernels, "plan", lambda *sizes: cut):
                return run()

        return launched

    return {OURS: run, "walked": with_cut(walk), "chained": with_cut(chain)}


def _linear_scan(setting: Setting, batch: int, time: int, width: int) -> Iterator[Case]:
    from recallfront.kernels.linear_scan import triton as kernels

    def inputs() -> tuple[Tensor, Tensor]:
        return torch.sigmoid(setting.normal(batch, time, width) + 3), setting.normal(
            batch, time, width, seed=1
        )

    def cuts(run: Contender) -> Candidates:
        return _all_cuts(kernels, run, walk=kernels.WALK, chain=kernels.CHAIN)

    def forward() -> Candidates:
        a, b = inputs()
        start = torch.zeros(batch, width, device=a.device)
        return setting.beside(
            cuts(lambda: kernels.scan(a, b, None, None)), lambda: linear_scan_reference(a, b, start)
        )

    def backward() -> Candidates:
        a, b = inputs()
        grad, last = (
            setting.normal(batch, time, width, seed=2),
            setting.normal(batch, width, dtype=torch.float32),
        )
        h, _ = kernels.scan(a, b, None, None)

        def definition() -> Tensors:
            leaves = a.requires_grad_(), b.requires_grad_()
            outputs = linear_scan_reference(*leaves, torch.zeros(batch, width, device=a.device))
            return torch.autograd.grad(outputs, leaves, (grad, last))

        return setting.beside(cuts(lambda: kernels.backward(a, h, None, None, grad, last)[:2]), definition)

    shape, count = f"{batch}x{time}x{width}", batch * time * width
    yield Case("linear_scan", shape, "forward", forward, moved=6 * count)
    yield Case("linear_scan", shape, "backward", backward, moved=10 * count)


def _rg_lru(setting: Setting, batch: int, time: int, width: int) -> Iterator[Case]:
    from recallfront.kernels.rg_lru import triton as kernels

    blocks = setting.size(_HEADS, 2)

    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        gates = setting.normal(blocks, batch * time, 2 * width // blocks)
        rate = -8 * F.softplus(setting.normal(width, dtype=torch.float32, seed=2) - 5)
        return gates, setting.normal(batch, time, width, seed=1), rate

    def cuts(run: Contender) -> Candidates:
        chain = kernels.CHAIN, kernels.CHAIN_BACK_WIDE if setting.tiny else kernels.CHAIN_BACK
        return _all_cuts(kernels, run, walk=(kernels.WALK, kernels.WALK_BACK), chain=chain)

    def defined(gates: Tensor, v: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """r, i = logistic(gates); a = exp(r rate); h = a h + sqrt(1 - a^2) i v, the first token's as it comes."""
        r, i = (
            x.permute(1, 0, 2).reshape(batch, time, width)
            for x in torch.sigmoid(gates).split(width // blocks, dim=2)
        )
        a = torch.exp(r * rate)
        inflow = torch.sqrt(-torch.expm1(2 * r * rate))
        inflow = torch.cat([torch.ones_like(inflow[:, :1]), inflow[:, 1:]], dim=1)
        return linear_scan_reference(a, inflow * i * v, torch.zeros(batch, width, device=v.device))

    def forward() -> Candidates:
        gates, v, rate = inputs()
        return setting.beside(
            cuts(lambda: kernels.gated_scan(gates, v, rate, None, None)), lambda: defined(gates, v, rate)
        )

    def backward() -> Candidates:
        gates, v, rate = inputs()
        grad, last = (
            setting.normal(batch, time, width, seed=3),
            setting.normal(batch, width, dtype=torch.float32),
        )
        h, _ = kernels.gated_scan(gates, v, rate, None, None)

        def definition() -> Tensors:
            leaves = [x.requires_grad_() for x in (gates, v, rate)]
            return torch.autograd.grad(defined(*leaves), leaves, (grad, last))

        return setting.beside(
            cuts(lambda: kernels.backward(gates, v, rate, None, None, h, grad, last)[:3]), definition
        )

    shape, count = f"{batch}x{time}x{width}", batch * time * width
    yield Case("rg_lru", shape, "forward", forward, moved=8 * count)
    yield Case("rg_lru", shape, "backward", backward, moved=16 * count)


def _short_conv(setting: Setting, batch: int, time: int, channels: int) -> Iterator[Case]:
    from recallfront.kernels.short_conv.triton import convolve

    def ours(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = convolve(x, taps, bias, None, None, True)[0]
        return y

    def library(across: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.conv1d(across, taps[:, None], bias, padding=3, groups=channels)[..., :time])

    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        x, taps = setting.normal(batch, time, channels), setting.normal(channels, 4, seed=1)
        return x, taps, setting.normal(channels, seed=2)

    shape, count = f"{batch}x{time}x{channels} 4 taps silu", batch * time * channels
    peers = {"PyTorch": Peer(library, turned=True)}
    yield from both_modes("short_conv", shape, ours, inputs, lambda: peers, moved=(4 * count, 10 * count))


def _rms_norm(setting: Setting, rows: int, width: int) -> Iterator[Case]:
    def inputs() -> tuple[Tensor, Tensor]:
        return setting.normal(rows, width), setting.normal(width, seed=1)

    def ours(x: Tensor, gain: Tensor) -> Tensor:
        return rms_norm(x, gain, backend="triton")

    def library(x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, (width,), gain, 1e-6)

    peers, count = {"PyTorch": Peer(library)}, rows * width
    moved = 4 * count, 10 * count
    yield from both_modes("rms_norm", f"{rows}x{width}", ours, inputs, lambda: peers, moved=moved)


def _gate(setting: Setting, rows: int, width: int) -> Iterator[Case]:
    def ours(packed: Tensor) -> Tensor:
        return gated_halves(packed, "gelu", backend="triton")

    def inputs() -> tuple[Tensor, ...]:
        return (setting.normal(rows, 2 * width),)

    def composed(packed: Tensor) -> Tensor:
        gate, x = packed.chunk(2, dim=-1)
        return F.gelu(gate, approximate="tanh") * x

    peers, count = {"PyTorch": Peer(composed)}, rows * width
    shape, moved = f"{rows}x{width} gelu", (6 * count, 16 * count)
    yield from both_modes("gated_product", shape, ours, inputs, lambda: peers, moved=moved)
