"""One-token steps: their ceiling is the bandwidth of memory over the state.

A step of one layer is over in microseconds, and even a copy of as few bytes stays below what a large copy
reaches: each step stands beside a copy of as many bytes.

The kernels are imported where they are first used, since not every machine has Triton.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recallfront.benchmarks.kernels.cases import OURS, Candidates, Case, Setting, Tensors, forward
from recallfront.benchmarks.kernels.targets import COPY
from recallfront.kernels.linear_scan.operator import linear_scan_step
from recallfront.kernels.short_conv.operator import short_conv_step
from recallfront.kernels.taylor_attention.operator import taylor_attention_step
from recallfront.kernels.window_attention.operator import window_attention_step

_FEATURES = 16

StepForm = Callable[..., Tensor]  # of the inputs, with backend="..."


def suite(setting: Setting) -> Iterator[Case]:
    """Every operator's step, batch 64 and 256, width 2,048."""
    for batch in setting.sizes((64, 256), 3):
        for make in (_scan, _rg_lru, _conv, _taylor, _window):
            yield make(setting, batch, setting.size(2048, 32))


def step_case(
    setting: Setting,
    operator: str,
    shape: str,
    step: StepForm,
    inputs: Callable[[], tuple[Tensor, ...]],
    moved: float,
    mode: str = "step",
) -> Case:
    def make() -> Candidates:
        given = inputs()
        kept = tuple(tensor.clone() for tensor in given) if setting.tiny else given
        numbers = torch.zeros(round(moved / 4), dtype=torch.int16, device=setting.device)
        target = torch.empty_like(numbers)

        def copy() -> Tensors:
            return target.copy_(numbers)

        ours = forward(lambda *x: step(*x, backend="triton"), given)
        candidates: Candidates = {OURS: ours, COPY: copy}
        return setting.beside(candidates, forward(lambda *x: step(*x, backend="reference"), kept))

    return Case(operator, shape, mode, make, moved=round(moved), apart=(COPY,))


def _scan(setting: Setting, batch: int, width: int) -> Case:
    def inputs() -> tuple[Tensor, ...]:
        a, b = torch.sigmoid(setting.normal(batch, width)), setting.normal(batch, width, seed=1)
        return a, b, setting.normal(batch, width, dtype=torch.float32, seed=2)

    def step(a: Tensor, b: Tensor, state: Tensor, backend: str) -> Tensor:
        return linear_scan_step(a, b, state, in_place=True, backend=backend)[0]  # type: ignore[arg-type]

    return step_case(setting, "linear_scan_step", f"{batch}x{width}", step, inputs, 14 * batch * width)


def _rg_lru(setting: Setting, batch: int, width: int) -> Case:
    from recallfront.kernels.rg_lru import triton as kernels

    heads = setting.size(16, 2)

    def inputs() -> tuple[Tensor, ...]:
        gates, v = setting.normal(heads, batch, 2 * width // heads), setting.normal(batch, width, seed=1)
        rate = -torch.rand(width, device=setting.device)
        starts = torch.zeros(batch, 1, dtype=torch.bool, device=setting.device)
        return gates, v, rate, starts, setting.normal(batch, width, dtype=torch.float32, seed=2)

    def step(gates: Tensor, v: Tensor, rate: Tensor, starts: Tensor, state: Tensor, backend: str) -> Tensor:
        if backend == "triton":
            h: Tensor = kernels.step(gates, v, rate, starts, state)
            return h
        r, i = (x.transpose(0, 1).flatten(1) for x in torch.sigmoid(gates).chunk(2, dim=2))
        return torch.exp(r * rate) * state + torch.sqrt(-torch.expm1(2 * r * rate)) * i * v

    moved = 16 * batch * width + 4 * width
    return step_case(setting, "rg_lru_step", f"{batch}x{width}", step, inputs, moved)


def _conv(setting: Setting, batch: int, width: int) -> Case:
    def inputs() -> tuple[Tensor, ...]:
        state = setting.normal(batch, 3, width, seed=2)
        return setting.normal(batch, width), setting.normal(width, 4, seed=1), state

    def step(x: Tensor, taps: Tensor, state: Tensor, backend: str) -> Tensor:
        return short_conv_step(
            x,
            taps,
            state,
            activation="silu",
            in_place=True,
            backend=backend,  # type: ignore[arg-type]
        )[0]

    moved = 16 * batch * width + 8 * width
    return step_case(setting, "short_conv_step", f"{batch}x{width} 4 taps silu", step, inputs, moved)


def _taylor(setting: Setting, batch: int, width: int) -> Case:
    heads = setting.size(16, 2)
    head, sums = width // heads, 1 + _FEATURES + _FEATURES * (_FEATURES + 1) // 2

    def inputs() -> tuple[Tensor, ...]:
        q, k = (setting.normal(batch, heads, _FEATURES, seed=seed) for seed in (0, 1))
        state = setting.normal(batch, heads, sums, head + 1, dtype=torch.float32, seed=3)
        state[..., -1] = 0
        state[..., 0, -1] = 100  # a normaliser as after a text: positive
        return q, k, setting.normal(batch, heads, head, seed=2), state

    def step(q: Tensor, k: Tensor, v: Tensor, state: Tensor, backend: str) -> Tensor:
        return taylor_attention_step(q, k, v, state, backend=backend)[0]  # type: ignore[arg-type]

    moved = batch * heads * (8 * sums * (head + 1) + 4 * head + 4 * _FEATURES)
    shape = f"{batch}x{heads}x{head} f {_FEATURES}"
    return step_case(setting, "taylor_attention_step", shape, step, inputs, moved)


def _window(setting: Setting, batch: int, width: int) -> Case:
    heads, slots = setting.size(16, 2), setting.size(1024, 8)
    head = width // heads

    def inputs() -> tuple[Tensor, ...]:
        q, k, v = (setting.normal(batch, heads, head, seed=seed) for seed in range(3))
        keys, values = (setting.normal(batch, heads, slots, head, seed=seed) for seed in (3, 4))
        return q, k, v, keys, values, torch.full((batch,), 4 * slots + 3, device=setting.device)

    def step(*given: Tensor, backend: str) -> Tensor:
        return window_attention_step(*given, backend=backend)  # type: ignore[arg-type]

    moved = batch * width * (4 * slots + 12)
    return step_case(
        setting, "window_attention_step", f"{batch}x{heads}x{head} {slots} keys", step, inputs, moved
    )
