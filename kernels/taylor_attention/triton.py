"""Taylor attention on a GPU: sizes, launches, and their registration with PyTorch.

Two ways forward, and back. Where the heads fill the chip, in bfloat16 and with a state that fits in registers, a
kernel goes through each text (`fused_kernel`, `wide_kernel`; `pull_kernel`) and moves little more than inputs and
outputs. Elsewhere the text is cut into chunks: one kernel writes the state before each chunk, one
works on all tiles at once. States are made anew for the backward pass: reading k and v again costs less than
keeping them.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch, describe
from recallfront.kernels.gpu.launching import has_wide_state, launch
from recallfront.kernels.taylor_attention.triton_backward import (
    keys_kernel,
    pull_kernel,
    queries_kernel,
)
from recallfront.kernels.taylor_attention.triton_forward import (
    fused_kernel,
    outputs_kernel,
    states_kernel,
    wide_kernel,
)
from recallfront.kernels.taylor_attention.triton_step import step_kernel

_FILLED = 128  # programs of the fused kernel that fill an H100 (132 multiprocessors); fixed: results depend on no chip
_ALONE = 512  # tokens up to which a chunk needs no state: a wider one costs fewer operations than features
_ROWS = 64  # lanes of the state come in such blocks


@dataclass(frozen=True)
class Cut:
    """Sizes of one kernel's tiles: tokens of a program and of its inner loop, lanes of features, values."""

    tile: int
    inner: int
    block: int
    columns: int
    warps: int
    stages: int = 2

    def speed(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}

    def width(self, values: int) -> int:
        return min(self.columns, max(16, _power(values)))


# The largest found that spill neither on sm_80 nor on sm_90. float32 is multiplied as such, outside the tensor cores.
_OUTPUTS = {
    torch.bfloat16: Cut(128, 64, 64, 128, 8),
    torch.float16: Cut(32, 16, 16, 32, 4),
    torch.float32: Cut(32, 16, 16, 32, 8),
}
_QUERIES = {  # up to 16 features, and more
    torch.bfloat16: (Cut(128, 32, 32, 64, 8), Cut(128, 32, 32, 64, 8)),
    torch.float16: (Cut(32, 16, 16, 32, 4), Cut(32, 16, 16, 16, 4)),
    torch.float32: (Cut(32, 16, 16, 32, 4), Cut(32, 16, 16, 16, 8)),
}
_KEYS = {
    torch.bfloat16: (Cut(128, 32, 16, 64, 8), Cut(128, 16, 16, 64, 8)),
    torch.float16: (Cut(32, 16, 16, 32, 8), Cut(32, 16, 16, 16, 8)),
    torch.float32: (Cut(32, 16, 16, 32, 4), Cut(32, 16, 16, 16, 8, stages=1)),
}
_STATES = {
    torch.bfloat16: Cut(64, 0, 64, 64, 4, stages=3),
    torch.float16: Cut(32, 0, 32, 32, 8),
    torch.float32: Cut(32, 0, 32, 32, 4),
}
_FUSED = (Cut(64, 0, 64, 32, 4, stages=3), Cut(64, 0, 64, 32, 8, stages=1))  # up to 16 features, and more
# The largest that do not spill on sm_90, up to 16 features, and more: there the state of 64 values takes 144 of a
# thread's 255 registers. A program fills a multiprocessor: 128 heads take 128 of an H100's 132.
_BACK = (Cut(64, 0, 64, 64, 8, stages=1), Cut(16, 0, 64, 64, 8, stages=1))
_STEP = (Cut(1, 0, 16, 64, 4), Cut(1, 0, 16, 128, 8))  # up to 64 values, and more


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def _lanes(features: int) -> tuple[int, int]:
    """Lanes of one turn, and of all."""
    period = max(8, _power(features))
    return period, (features // 2 + 2) * period


def _rows(features: int) -> int:
    return -(-_lanes(features)[1] // _ROWS) * _ROWS


def _layout(features: int, values: int, cut: Cut) -> dict[str, Any]:
    """Constants that all kernels but the step's share."""
    return {
        "FEATURES": features,
        "VALUES": values,
        "PADDED": max(16, _lanes(features)[0]),
        "PERIOD": _lanes(features)[0],
        "BLOCK": cut.block,
        "COLUMNS": cut.width(values),
        "TILE": cut.tile,
    }


def _blocks(features: int, cut: Cut) -> dict[str, int]:
    """Blocks of lanes, and how many of them are pairs alone, before the lanes of x and 1."""
    period, lanes = _lanes(features)
    first = (features // 2 + 1) * period
    if features == period:
        first -= 1  # the 1 is in the last lane of the last turn
    return {"BLOCKS": triton.cdiv(lanes, cut.block), "PLAIN": first // cut.block, "ROWS": _rows(features)}


def _precision(dtype: torch.dtype) -> str:
    """How what is kept in float32 is multiplied: beside float16, tf32 alone would cut digits that show.

    bfloat16 is multiplied as such.
    """
    return {torch.float32: "ieee", torch.float16: "tf32x3"}.get(dtype, "tf32")


def _kept(dtype: torch.dtype) -> torch.dtype:
    """Type of the states between kernels: the one that they are multiplied in."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def _span(time: int, features: int) -> int:
    """Tokens of a chunk."""
    if time <= _ALONE:
        return _ALONE
    return 128 if features <= 16 else 256


def is_fused(q: Tensor, v: Tensor) -> bool:
    """Whether one kernel goes through the whole text."""
    batch, time, heads, features = q.shape
    programs = batch * heads * triton.cdiv(v.shape[3], _FUSED[0].width(v.shape[3]))
    fits = features <= 16 or has_wide_state(q.device)
    return q.dtype == torch.bfloat16 and fits and time > _ALONE and programs >= _FILLED


def is_fused_back(q: Tensor, v: Tensor) -> bool:
    """Whether the backward pass goes through the whole text too: its kernels hold more than the forward pass's."""
    return is_fused(q, v) and q.shape[0] * q.shape[2] >= _FILLED and has_wide_state(q.device)


def _together(x: Tensor) -> Tensor:
    """x with its last dimension in one piece; the others may be strided, tokens as far as a tile's fit 32 bits."""
    near = x.stride(-1) == 1 and x.stride(1) < 2**31 // 128
    return x if near else x.clone(memory_format=torch.contiguous_format)


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for x in tensors for stride in x.stride()[:-1])


def _table(features: int, device: torch.device) -> Tensor:
    """Rows that pick the factors of each lane: those of the left one, then those of the right ones by block.

    Made on the CPU: filled by a kernel while a CUDA graph is captured, it would hold nothing until that runs.
    """
    period, lanes = _lanes(features)
    lane = torch.arange(-(-lanes // _FUSED[0].block) * _FUSED[0].block)
    shift, i = lane // period, lane % period
    half = features // 2
    last = half if features % 2 == 0 else period
    pair = (i < features) & (shift <= half) & ((shift < half) | (i < last))
    right = torch.where(pair, (i + shift) % features, -1)
    picked = torch.cat([i[: _FUSED[0].block], right])[:, None] == torch.arange(max(16, period))
    return picked.to(torch.bfloat16).to(device)


_kept_table = lru_cache(maxsize=32)(_table)


@torch.library.custom_op("recallfront::taylor_attention", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, eps: float) -> tuple[Tensor, Tensor]:
    """o (B, T, H, V) in the type of v, and the denominators (B, T, H) in float32."""
    q, k, v = _together(q), _together(k), _together(v)
    batch, time, heads, features = q.shape
    values = v.shape[3]
    if not is_fused(q, v):
        return _in_chunks(q, k, v, None, None, scale, eps)[:2]
    o = torch.empty(batch, time, heads, values, dtype=v.dtype, device=v.device)
    denominators = torch.empty(batch, time, heads, dtype=torch.float32, device=v.device)
    large = features > 16
    cut = _FUSED[large]
    constants = _fused_constants(features, values, cut)
    table = [] if large else [_kept_table(features, q.device)]
    plain = [constants["BLOCKS"] - 1] if large else []
    launch(
        wide_kernel if large else fused_kernel, (batch * heads, triton.cdiv(values, constants["COLUMNS"])),
        q, k, v, *table, o, denominators, scale, eps, time, heads, *plain, *_strides(q, k, v),
        **constants, **cut.speed(),
    )  # fmt: skip
    return o, denominators


def _fused_constants(features: int, values: int, cut: Cut) -> dict[str, Any]:
    blocks = _blocks(features, cut)["BLOCKS"]
    return {**_layout(features, values, cut), "BLOCKS": blocks, "PRECISION": _precision(torch.bfloat16)}


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, padding: Tensor | None, scale: float, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """o, the denominators, and where a state is given the new one."""
    batch, time, heads, features = q.shape
    values = v.shape[3]
    span = _span(time, features)
    final = None if state is None else torch.empty_like(state)
    sums, norms = _states(k, v, None, padding, state, final, scale, span, backward=False)
    o = torch.empty(batch, time, heads, values, dtype=v.dtype, device=v.device)
    denominators = torch.empty(batch, time, heads, dtype=torch.float32, device=v.device)
    cut = _OUTPUTS[q.dtype]
    layout = _layout(features, values, cut)
    launch(
        outputs_kernel, (batch * heads * triton.cdiv(time, cut.tile), triton.cdiv(values, layout["COLUMNS"])),
        q, k, v, padding, sums, norms, o, denominators, scale, eps, time, heads, span, triton.cdiv(time, span),
        *_strides(q, k, v), **layout, **_blocks(features, cut), INNER=cut.inner, FIRST_STATE=state is not None,
        PRECISION=_precision(q.dtype), **cut.speed(),
    )  # fmt: skip
    return o, denominators, final


def _states(
    x: Tensor,
    y: Tensor,
    counts: Tensor | None,
    padding: Tensor | None,
    initial: Tensor | None,
    final: Tensor | None,
    scale: float,
    span: int,
    *,
    backward: bool,
) -> tuple[Tensor, Tensor]:
    """States before (backward: after) each chunk: sums (B H, chunks, rows, V) and, in float32, of features alone."""
    batch, time, heads, features = x.shape
    values, chunks, rows = y.shape[3], triton.cdiv(time, span), _rows(features)
    needed = chunks if chunks > 1 or initial is not None else 0
    sums = torch.empty(batch * heads, needed, rows, values, dtype=_kept(x.dtype), device=x.device)
    norms = torch.empty(batch * heads, needed, rows, dtype=torch.float32, device=x.device)
    if needed == 0 and final is None:
        return sums, norms
    cut = _STATES[x.dtype]
    layout = _layout(features, values, cut)
    tiles = triton.cdiv(time, cut.tile)
    if backward:
        tiles -= span // cut.tile
    elif final is None:
        tiles = (chunks - 1) * (span // cut.tile)
    launch(
        states_kernel, (batch * heads * (rows // cut.block), triton.cdiv(values, layout["COLUMNS"])),
        x, y, counts, padding, initial, sums, norms, final, scale, time, heads, span, chunks, tiles,
        *_strides(x, y), **layout, ROWS=rows, BACKWARD=backward, PRECISION=_precision(x.dtype), **cut.speed(),
    )  # fmt: skip
    return sums, norms


@attend.register_fake
def _attend_fake(q: Tensor, k: Tensor, v: Tensor, scale: float, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v, memory_format=torch.contiguous_format), v.new_empty(
        v.shape[:3], dtype=torch.float32
    )


@torch.library.custom_op("recallfront::taylor_attention_backward", mutates_args=())
def attend_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, denominators: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each in its type."""
    gradient, q, k, v = _together(gradient), _together(q), _together(k), _together(v)
    if is_fused_back(q, v):
        return _back_in_passes(gradient, q, k, v, o, denominators, scale)
    batch, time, heads, features = q.shape
    values = v.shape[3]
    large = features > 16
    span = _span(time, features)
    chunks, tokens = triton.cdiv(time, span), batch * time * heads
    kind = _kept(q.dtype)
    sums, norms = _states(k, v, None, None, None, None, scale, span, backward=False)
    scaled = torch.empty(batch, time, heads, values, dtype=kind, device=q.device)

    cut = _QUERIES[q.dtype][large]
    layout = _layout(features, values, cut)
    parts = triton.cdiv(values, layout["COLUMNS"])
    slopes = torch.empty(parts, batch, time, heads, dtype=torch.float32, device=q.device)
    q_gradient = _partial(q, parts)
    launch(
        queries_kernel, (batch * heads * triton.cdiv(time, cut.tile), parts),
        q, k, v, o, gradient, denominators, sums, norms, scaled, slopes, q_gradient,
        scale, time, heads, span, chunks, tokens, *_strides(q, k, v, gradient), **layout, **_blocks(features, cut),
        INNER=cut.inner, PRECISION=_precision(q.dtype), **cut.speed(),
    )  # fmt: skip
    slopes = slopes[0] if parts == 1 else slopes.sum(0)
    del sums, norms  # as much memory as q, k and v, or more

    sums, norms = _states(q, scaled, slopes, None, None, None, scale, span, backward=True)
    cut = _KEYS[q.dtype][large]
    layout = _layout(features, values, cut)
    parts = triton.cdiv(values, layout["COLUMNS"])
    k_gradient = _partial(k, parts)
    v_gradient = torch.empty(batch, time, heads, values, dtype=v.dtype, device=v.device)
    launch(
        keys_kernel, (batch * heads * triton.cdiv(time, cut.tile), parts),
        q, k, v, scaled, slopes, sums, norms, k_gradient, v_gradient,
        scale, time, heads, span, chunks, tokens, *_strides(q, k, v), **layout, **_blocks(features, cut),
        INNER=cut.inner, PRECISION=_precision(q.dtype), **cut.speed(),
    )  # fmt: skip
    return _whole(q_gradient, q.dtype), _whole(k_gradient, k.dtype), v_gradient


def _back_in_passes(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, denominators: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_backward` by a kernel that goes through the text: for the queries, for the keys and values.

    Parts of the values follow one another and add to one gradient of q and k, rounded to its type in between: their
    programs together would not run at once.
    """
    batch, time, heads, features = q.shape
    cut = _BACK[features > 16]
    constants = _fused_constants(features, v.shape[3], cut)
    parts, blocks = triton.cdiv(v.shape[3], constants["COLUMNS"]), constants["BLOCKS"]
    slopes = torch.empty(batch, time, heads, dtype=torch.float32, device=q.device)
    q_gradient, k_gradient, v_gradient = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)
    )
    for keys, part in itertools.product((False, True), range(parts)):
        launch(
            pull_kernel, (batch * heads,), q, k, v, None if keys else o, gradient, denominators, slopes,
            k_gradient if keys else q_gradient, v_gradient if keys else None,
            scale, time, heads, blocks, part, *_strides(q, k, v, gradient), **constants, KEYS=keys, **cut.speed(),
        )  # fmt: skip
    return q_gradient, k_gradient, v_gradient


def _partial(x: Tensor, parts: int) -> Tensor:
    """Room for a gradient, or for those that come through each part of the values."""
    kind = x.dtype if parts == 1 else torch.float32
    return torch.empty(parts, *x.shape, dtype=kind, device=x.device)


def _whole(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return gradient[0] if gradient.shape[0] == 1 else gradient.sum(0).to(dtype)


@attend_backward.register_fake
def _attend_backward_fake(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, denominators: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    q_gradient, k_gradient, v_gradient = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)
    )
    return q_gradient, k_gradient, v_gradient


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.scale, _ = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, o, denominators = ctx.saved_tensors
    return *attend_backward(gradient, q, k, v, o, denominators, ctx.scale), None, None


attend.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("recallfront::taylor_attention_extend", mutates_args=())
def extend(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, padding: Tensor | None, scale: float, eps: float
) -> tuple[Tensor, Tensor]:
    """o (B, T, H, V) in the type of v, and the new state."""
    marks = None if padding is None else padding.contiguous().view(torch.uint8)
    q, k, v = _together(q), _together(k), _together(v)
    o, _, final = _in_chunks(q, k, v, state.contiguous(), marks, scale, eps)
    assert final is not None
    return o, final


@extend.register_fake
def _extend_fake(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, padding: Tensor | None, scale: float, eps: float
) -> tuple[Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return torch.empty_like(v, memory_format=contiguous), torch.empty_like(state, memory_format=contiguous)


@torch.library.custom_op("recallfront::taylor_attention_step", mutates_args=("state",))
def step(q: Tensor, k: Tensor, v: Tensor, state: Tensor, scale: float, eps: float) -> Tensor:
    """o (B, H, V) in the type of v; state (B, H, features, V + 1) gets the token."""
    batch, heads, features = q.shape
    values = v.shape[2]
    cut = _STEP[values > 64]
    o = torch.empty(batch, heads, values, dtype=v.dtype, device=v.device)
    q, k, v = _together(q), _together(k), _together(v)
    launch(
        step_kernel, (batch * heads,), q, k, v, state, o, scale, eps, heads, *_strides(q, k, v), *state.stride()[:2],
        FEATURES=features, VALUES=values, PADDED=_power(features), COLUMNS=cut.width(values),
        BLOCK=cut.block, **cut.speed(),
    )  # fmt: skip
    return o


@step.register_fake
def _step_fake(q: Tensor, k: Tensor, v: Tensor, state: Tensor, scale: float, eps: float) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# features and values: the largest of each kind, and odd ones
_TRIED = ((8, 64), (16, 64), (16, 128), (24, 64), (32, 128))


def launches() -> list[Launch]:
    """Every kernel in each type, at the sizes that need the most registers and shared memory."""
    found = []
    for dtype, name in _NAMES.items():
        for features, values in _TRIED if dtype == torch.bfloat16 else _TRIED[1::3]:
            found += _training_launches(dtype, name, features, values)
        found.append(_states_launch(dtype, name, 32, 128, initial="fp32", final="fp32", padding="u8"))
        for features, values in _TRIED[1::3]:
            pointers = {"q": name, "k": name, "v": name, "state": "fp32", "o": name}
            sizes = {"FEATURES": features, "VALUES": values, "PADDED": _power(features)}
            cut = _STEP[values > 64]
            found.append(_describe(step_kernel, pointers, cut, **sizes, COLUMNS=values, BLOCK=cut.block))
    return found


def _training_launches(dtype: torch.dtype, name: str, features: int, values: int) -> list[Launch]:
    kept, large = _NAMES[_kept(dtype)], features > 16
    precision = {"PRECISION": _precision(dtype)}
    states = {"sums": kept, "norms": "fp32"}
    inputs = {"q": name, "k": name, "v": name}
    found = []
    if dtype == torch.bfloat16:
        pointers = {**inputs, "o": name, "denominators": "fp32"} | ({} if large else {"table": name})
        constants = _fused_constants(features, values, _FUSED[large])
        fused = _describe(wide_kernel if large else fused_kernel, pointers, _FUSED[large], **constants)
        found.append(replace(fused, architectures=(90,) if large else fused.architectures))
        found += _back_launches(name, features, values)
    cut = _OUTPUTS[dtype]
    pointers = {**inputs, **states, "o": name, "denominators": "fp32"}
    constants = {**_layout(features, values, cut), **_blocks(features, cut), "INNER": cut.inner, **precision}
    found.append(_describe(outputs_kernel, pointers, cut, **constants, padding=None, FIRST_STATE=False))
    found.append(_states_launch(dtype, name, features, values))
    cut = _QUERIES[dtype][large]
    constants = {**_layout(features, values, cut), **_blocks(features, cut), "INNER": cut.inner, **precision}
    partial = name if values <= constants["COLUMNS"] else "fp32"
    pointers = {**inputs, "o": name, "gradient": name, "denominators": "fp32", **states}
    pointers |= {"scaled": kept, "slopes": "fp32", "q_gradient": partial}
    found.append(_describe(queries_kernel, pointers, cut, **constants))
    found.append(_states_launch(dtype, name, features, values, counts="fp32"))
    cut = _KEYS[dtype][large]
    constants = {**_layout(features, values, cut), **_blocks(features, cut), "INNER": cut.inner, **precision}
    partial = name if values <= constants["COLUMNS"] else "fp32"
    pointers = {
        **inputs,
        "scaled": kept,
        "slopes": "fp32",
        **states,
        "k_gradient": partial,
        "v_gradient": name,
    }
    found.append(_describe(keys_kernel, pointers, cut, **constants))
    return found


def _back_launches(name: str, features: int, values: int) -> list[Launch]:
    cut = _BACK[features > 16]
    constants = _fused_constants(features, values, cut)
    pointers = dict.fromkeys(("q", "k", "v", "o", "gradient", "x_gradient", "v_gradient"), name)
    pointers |= {"denominators": "fp32", "slopes": "fp32"}
    found = [
        _describe(pull_kernel, {**pointers, "o" if keys else "v_gradient": None}, cut, **constants, KEYS=keys)
        for keys in (False, True)
    ]
    return [replace(one, architectures=(90,)) for one in found]


def _states_launch(dtype: torch.dtype, name: str, features: int, values: int, **given: str) -> Launch:
    cut = _STATES[dtype]
    absent = dict.fromkeys({"counts", "padding", "initial", "final"} - set(given))
    pointers = {"x": name, "y": name, "sums": _NAMES[_kept(dtype)], "norms": "fp32", **given}
    constants = {**_layout(features, values, cut), "ROWS": _rows(features), "BACKWARD": "counts" in given}
    if "counts" in given:
        pointers["y"] = _NAMES[_kept(dtype)]
    return _describe(states_kernel, pointers, cut, **absent, **constants, PRECISION=_precision(dtype))


def _describe(kernel: Any, pointers: Mapping[str, str | None], cut: Cut, **constants: Any) -> Launch:
    described = describe(kernel, pointers, num_warps=cut.warps, num_stages=cut.stages, **constants)
    floats = {name: "fp32" for name in ("scale", "eps") if name in described.signature}
    return replace(described, signature={**described.signature, **floats})
