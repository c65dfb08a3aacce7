"""Grouped attention: in parallel, beside its compiled reference; a step; a draft tree."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from recallfront.benchmarks.kernels.cases import Case, Peer, Setting, both_modes
from recallfront.benchmarks.kernels.steps import step_case
from recallfront.benchmarks.kernels.targets import COMPILED
from recallfront.kernels.grouped_attention.operator import (
    grouped_attention,
    grouped_attention_step,
    grouped_attention_tree,
)

_TAPS, _NODES = 32, 32


def suite(setting: Setting) -> Iterator[Case]:
    """All cases."""
    yield from _parallel(setting, setting.size(8192, 40))
    for batch in setting.sizes((64, 256), 3):
        for make in (_step, _tree):
            yield make(setting, batch, setting.size(2048, 32))


def _parallel(setting: Setting, time: int) -> Iterator[Case]:
    batch, heads, width = setting.size(4, 1), setting.size(16, 2), setting.size(64, 16)
    group = setting.size(64, 8)

    def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v = (setting.normal(batch, time, heads, width, seed=seed) for seed in range(3))
        return q, k, v, setting.normal(heads, _TAPS, dtype=torch.float32, seed=3) / _TAPS

    def ours(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
        return grouped_attention(q, k, v, group_size=group, conv_taps=taps, backend="triton")

    def reference(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
        return grouped_attention(q, k, v, group_size=group, conv_taps=taps, backend="reference")

    def peers() -> Mapping[str, Peer]:
        return {COMPILED: Peer(reference if setting.tiny else torch.compile(reference))}

    count = 2 * batch * time * heads * width
    shape, moved = f"{batch}x{time}x{heads}x{width} group {group}", (4 * count, 11 * count)
    yield from both_modes("grouped_attention", shape, ours, inputs, peers, moved=moved, seconds=60)


def _grouped_state(
    setting: Setting, batch: int, width: int
) -> tuple[int, int, int, Callable[[], list[Tensor]]]:
    """Heads, channels a head, slots, and a maker of sums, keys, values, tail, taps, lengths."""
    heads, slots = setting.size(16, 2), setting.size(64, 8)
    head = width // heads

    def make() -> list[Tensor]:
        sizes = head, slots, slots, _TAPS
        made = [
            setting.normal(batch, heads, size, head, dtype=torch.float32, seed=3 + place)
            for place, size in enumerate(sizes)
        ]
        taps = setting.normal(heads, _TAPS, dtype=torch.float32, seed=8) / _TAPS
        return [*made, taps, torch.full((batch,), 4 * slots + 3, device=setting.device)]

    return heads, head, slots, make


def _step(setting: Setting, batch: int, width: int) -> Case:
    heads, head, slots, states = _grouped_state(setting, batch, width)

    def inputs() -> tuple[Tensor, ...]:
        return *(setting.normal(batch, heads, head, seed=seed) for seed in range(3)), *states()

    def step(*given: Tensor, backend: str) -> Tensor:
        q, k, v, sums, keys, values, tail, taps, lengths = given
        return grouped_attention_step(
            q,
            k,
            v,
            sums,
            keys,
            values,
            lengths,
            tail=tail,
            conv_taps=taps,
            backend=backend,  # type: ignore[arg-type]
        )

    # the sums are read and written, the rings read but for a slot of each
    moved = batch * width * (8 * head + 4 * (2 * slots + _TAPS) + 12 + 8)
    return step_case(
        setting, "grouped_attention_step", f"{batch}x{heads}x{head} group {slots}", step, inputs, moved
    )


def _tree(setting: Setting, batch: int, width: int) -> Case:
    heads, head, slots, states = _grouped_state(setting, batch, width)
    nodes = setting.size(_NODES, 5)

    def inputs() -> tuple[Tensor, ...]:
        parents = [(node - 1) // 2 for node in range(nodes)]  # a binary tree
        depth, seen = torch.zeros(nodes, dtype=torch.long), torch.eye(nodes, dtype=torch.bool)
        for node in range(1, nodes):
            depth[node] = depth[parents[node]] + 1
            seen[node] |= seen[parents[node]]
        *rings, lengths = states()
        positions = lengths[:, None] + depth.to(setting.device)
        drawn = (setting.normal(batch, nodes, heads, head, seed=seed) for seed in range(3))
        return *drawn, *rings, lengths, positions, seen.to(setting.device)

    def step(*given: Tensor, backend: str) -> Tensor:
        q, k, v, sums, keys, values, tail, taps, lengths, positions, seen = given
        return grouped_attention_tree(
            q, k, v, sums, keys, values, lengths, positions, seen,
            tail=tail, conv_taps=taps, backend=backend,  # type: ignore[arg-type]
        )  # fmt: skip

    moved = batch * width * (4 * (head + 2 * slots + _TAPS) + 8 * nodes)
    shape = f"{batch}x{heads}x{head} group {slots} {nodes} nodes"
    return step_case(setting, "grouped_attention_tree", shape, step, inputs, moved, mode="tree")
