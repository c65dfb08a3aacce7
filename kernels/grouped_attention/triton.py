"""Grouped attention's kernels: their launches, and their registration with torch."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch
from recallfront.kernels.gpu.launching import has_wide_state, launch
from recallfront.kernels.grouped_attention.plan import (
    TAPS_STRETCH,
    WIDEST_BACKWARD,
    WIDEST_FLOAT32,
    Backward,
    GroupedBlocks,
    GroupedPlan,
    backward_plan,
    forward_blocks,
    forward_plan,
    pad,
    step_blocks,
    tree_blocks,
)
from recallfront.kernels.grouped_attention.triton_backward import grouped_keys, grouped_queries, grouped_taps
from recallfront.kernels.grouped_attention.triton_forward import (
    grouped_accumulate,
    grouped_forward,
    grouped_sums,
)
from recallfront.kernels.grouped_attention.triton_step import grouped_step
from recallfront.kernels.grouped_attention.triton_tree import grouped_tree

_ACCUMULATED = {"BLOCK": 512, "STEPS": 8}  # entries of a state a program, states at once


def _rows(x: Tensor) -> Tensor:
    """x (B, T, H, D) as it is where the kernels can step through it, copied where a head's numbers lie apart."""
    return x if x.stride(3) == 1 else x.contiguous()


def _steps(*tensors: Tensor) -> list[int]:
    return [step for x in tensors for step in x.stride()[:3]]


@lru_cache(maxsize=64)
def _number(value: float, device: torch.device) -> Tensor:
    """A number on the device, kept: a copy there cannot be captured in a CUDA graph."""
    return torch.tensor(value, dtype=torch.float32, device=device)


def _options(blocks: GroupedBlocks) -> dict[str, int]:
    return {
        "ROWS": blocks.rows,
        "PIECE": blocks.piece,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def _flags(plan: GroupedPlan, width: int) -> dict[str, Any]:
    """Constants that the three big kernels have in common."""
    flags = {"CARRIED": plan.carried, "LONG": plan.long, "SINGLE": plan.single}
    return {"WIDTH": width, "COLUMNS": pad(width), **flags}


def _numbers(plan: GroupedPlan, time: int, heads: int) -> tuple[int, ...]:
    return time, heads, plan.group, plan.span, plan.parts, plan.stretch, plan.stretches


def _sums(
    keys: Tensor,
    values: Tensor,
    plan: GroupedPlan,
    blocks: GroupedBlocks,
    *,
    backward: bool = False,
    fine: bool = False,
) -> Tensor | None:
    """Sums of unit keys times values over all stretches up to each; over all after each where `backward`.

    keys, values (B, T, H, D); returns (B, H, stretches - 1, D, D), None where there is one stretch. fine: with what
    the unit keys lose in their type.
    """
    if plan.stretches == 1:
        return None
    batch, time, heads, width = keys.shape
    lines, others = batch * heads, plan.stretches - 1
    sums = torch.empty(batch, heads, others, width, width, dtype=torch.float32, device=keys.device)
    launch(
        grouped_sums,
        (lines * others * -(-width // blocks.values),),
        *(keys, values, sums),
        *_steps(keys, values),
        *(time, heads, plan.stretch, others, int(backward)),
        WIDTH=width,
        COLUMNS=pad(width),
        ROWS=blocks.rows,
        VALUES=blocks.values,
        FINE=fine,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    if others > 1:
        programs = lines * -(-(width * width) // _ACCUMULATED["BLOCK"])
        sizes = {"WIDTH": width, "BACKWARD": backward, **_ACCUMULATED}
        launch(grouped_accumulate, (programs,), sums, others, **sizes, num_warps=4, num_stages=1)
    return sums


@torch.library.custom_op("recallfront::grouped_attention", mutates_args=())
def grouped_attention_op(
    q: Tensor, k: Tensor, v: Tensor, scale: Tensor | None, taps: Tensor | None, number: float, group_size: int
) -> Tensor:
    """o (B, T, H, D); arguments as `grouped_attention` has them, scale (one element) and taps in float32.

    number is the scale where `scale` is None.
    """
    q, k, v = _rows(q), _rows(k), _rows(v)
    batch, time, heads, width = q.shape
    lines = batch * heads
    blocks = forward_blocks(lines, width, q.dtype)
    plan = forward_plan(blocks, lines, time, width, group_size)
    o = torch.empty(q.shape, dtype=v.dtype, device=q.device)
    launch(
        grouped_forward,
        (lines * plan.programs * -(-width // blocks.values),),
        *(q, k, v, o, _sums(k, v, plan, blocks)),
        _number(number, q.device) if scale is None else scale,
        None if taps is None else taps.contiguous(),
        *_steps(q, k, v),
        *_numbers(plan, time, heads),
        0 if taps is None else taps.shape[1] - 1,
        VALUES=blocks.values,
        CONVOLVED=taps is not None,
        **_flags(plan, width),
        **_options(blocks),
    )
    return o


@grouped_attention_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: object) -> Tensor:
    return v.new_empty(v.shape)


@torch.library.custom_op("recallfront::grouped_attention_backward", mutates_args=())
def grouped_attention_backward_op(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor | None,
    taps: Tensor | None,
    number: float,
    group_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, of the scale (no dimensions) and of the taps (H, 0 where there are none)."""
    do, q, k, v = _rows(do), _rows(q), _rows(k), _rows(v)
    batch, time, heads, width = q.shape
    lines = batch * heads
    cut = backward_plan(lines, time, width, group_size, q.dtype, has_wide_state(q.device))
    plan, learned = cut.plan, scale is not None
    given = _number(number, q.device) if scale is None else scale
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    dscale = torch.empty(lines * plan.programs if learned else 0, dtype=torch.float32, device=q.device)
    common = (*_steps(q, k, v, do), *_numbers(plan, time, heads))
    before = _sums(k, v, plan, cut.sums, fine=learned)
    launch(
        grouped_queries,
        (lines * plan.programs,),
        *(q, k, v, do, dq, before, given, dscale if learned else None),
        *common,
        LEARNED=learned,
        **_flags(plan, width),
        **_options(cut.queries),
    )
    after = _sums(q, do, plan, cut.sums, backward=True)
    for dk_now, dv_now, blocks in _key_passes(cut, dk, dv):
        convolved = taps is not None and dv_now is not None
        launch(
            grouped_keys,
            (lines * plan.programs,),
            *(q, k, v, do, dk_now, dv_now, after, given),
            taps.contiguous() if taps is not None and convolved else None,
            *common,
            0 if taps is None else taps.shape[1] - 1,
            CONVOLVED=convolved,
            DK=dk_now is not None,
            DV=dv_now is not None,
            **_flags(plan, width),
            **_options(blocks),
        )
    dtaps = torch.empty(heads, 0, dtype=torch.float32, device=q.device)
    return dq, dk, dv, dscale.sum(), dtaps if taps is None else _taps_gradient(v, do, taps.shape[1], cut.taps)


def _key_passes(
    cut: Backward, dk: Tensor, dv: Tensor
) -> list[tuple[Tensor | None, Tensor | None, GroupedBlocks]]:
    if cut.values is None:
        return [(dk, dv, cut.keys)]
    return [(dk, None, cut.keys), (None, dv, cut.values)]


def _taps_gradient(v: Tensor, do: Tensor, size: int, blocks: GroupedBlocks) -> Tensor:
    """The gradient of the taps (H, size)."""
    batch, time, heads, width = v.shape
    stretches = -(-time // TAPS_STRETCH)
    shape = (batch, heads, stretches, blocks.piece, size)
    dtaps = torch.empty(shape, dtype=torch.float32, device=v.device)
    launch(
        grouped_taps,
        (batch * heads * stretches,),
        *(v, do, dtaps),
        *_steps(v, do),
        *(time, heads, TAPS_STRETCH, stretches, size - 1),
        WIDTH=width,
        COLUMNS=pad(width),
        **_options(blocks),
    )
    return dtaps.sum((0, 2, 3))


@grouped_attention_backward_op.register_fake
def _(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor | None,
    taps: Tensor | None,
    number: float,
    group_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    size = 0 if taps is None else taps.shape[1]
    one = q.new_empty((), dtype=torch.float32)
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        one,
        q.new_empty(q.shape[2], size, dtype=torch.float32),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.number, ctx.group_size = inputs
    ctx.save_for_backward(*tensors)


def _back(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, scale, taps = ctx.saved_tensors
    *gradients, dscale, dtaps = grouped_attention_backward_op(
        do, q, k, v, scale, taps, ctx.number, ctx.group_size
    )
    dscale = None if scale is None else dscale.view(scale.shape)
    return (*gradients, dscale, None if taps is None else dtaps, None, None)


grouped_attention_op.register_autograd(_back, setup_context=_keep)


@torch.library.custom_op(
    "recallfront::grouped_attention_step", mutates_args=("sums", "keys", "values", "tail")
)
def grouped_attention_step_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    keys: Tensor,
    values: Tensor,
    tail: Tensor | None,
    lengths: Tensor,
    scale: Tensor | None,
    taps: Tensor | None,
    number: float,
) -> Tensor:
    """o (B, H, D); arguments as `grouped_attention_step` has them, number is the scale where `scale` is None."""
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    batch, heads, width = q.shape
    blocks = step_blocks(batch * heads, width)
    o = torch.empty(batch, heads, width, dtype=v.dtype, device=q.device)
    launch(
        grouped_step,
        (batch * heads * -(-width // blocks.values),),
        *(q, k, v, sums, keys, values, tail, lengths.contiguous()),
        _number(number, q.device) if scale is None else scale,
        None if taps is None else taps.contiguous(),
        o,
        *(step for x in (q, k, v) for step in x.stride()[:2]),
        *(heads, keys.shape[2], 0 if taps is None else taps.shape[1]),
        WIDTH=width,
        COLUMNS=pad(width),
        VALUES=blocks.values,
        SLOTS=blocks.piece,
        CONVOLVED=taps is not None,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    return o


@grouped_attention_step_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: object) -> Tensor:
    return v.new_empty(v.shape)


@torch.library.custom_op("recallfront::grouped_attention_tree", mutates_args=())
def grouped_attention_tree_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sums: Tensor,
    keys: Tensor,
    values: Tensor,
    tail: Tensor | None,
    lengths: Tensor,
    positions: Tensor,
    seen: Tensor,
    scale: Tensor | None,
    taps: Tensor | None,
    number: float,
) -> Tensor:
    """o (B, N, H, D); arguments as `grouped_attention_tree` has them, number is the scale where `scale` is None."""
    q, k, v = _rows(q), _rows(k), _rows(v)
    batch, nodes, heads, width = q.shape
    blocks = tree_blocks(batch * heads, nodes, width, q.dtype)
    parts = -(-nodes // blocks.rows)
    o = torch.empty(q.shape, dtype=v.dtype, device=q.device)
    launch(
        grouped_tree,
        (batch * heads * parts * -(-width // blocks.values),),
        *(q, k, v, sums, keys, values, tail, lengths.contiguous(), positions.contiguous()),
        seen.contiguous().view(torch.uint8),
        _number(number, q.device) if scale is None else scale,
        None if taps is None else taps.contiguous(),
        o,
        *_steps(q, k, v),
        *(nodes, heads, keys.shape[2], 0 if taps is None else taps.shape[1], parts),
        WIDTH=width,
        COLUMNS=pad(width),
        VALUES=blocks.values,
        CONVOLVED=taps is not None,
        PRECISION=_precision(q.dtype),
        **_options(blocks),
    )
    return o


@grouped_attention_tree_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: object) -> Tensor:
    return v.new_empty(v.shape)


def _precision(dtype: torch.dtype) -> str:
    """How float32 states are multiplied: exactly, or, three products on tensor cores, finer than 16 bits show."""
    return "ieee" if dtype == torch.float32 else "tf32x3"


_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WIDE = ("sums", "scale", "taps", "dscale", "dtaps", "keys", "values", "tail")
_NAMED = {f"{name}_ptr": "*fp32" for name in _WIDE}
_NAMED |= {"lengths_ptr": "*i64", "positions_ptr": "*i64", "seen_ptr": "*u8"}
_TIME, _GROUPS = 4096, (8, 16, 32, 64, 256)  # to one tile several groups, one, a part of one
_HOPPER = {False: (80,), True: (90,)}


def _described(
    kernel: Any,
    kind: str,
    blocks: GroupedBlocks,
    *,
    architectures: tuple[int, ...] = (80, 90),
    **constants: Any,
) -> Launch:
    """A launch with tensors of the type `kind`."""
    constants = {"ROWS": blocks.rows, "PIECE": blocks.piece, "VALUES": blocks.values, **constants}
    signature = {
        name: _NAMED.get(name, f"*{kind}" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in constants
    }
    given = {name: constants[name] for name in kernel.arg_names if name in constants}
    return Launch(kernel, signature, given, blocks.warps, blocks.stages, architectures=architectures)


def _forward_launches(kind: str, width: int, lines: int) -> list[Launch]:
    blocks = forward_blocks(lines, width, _TYPES[kind])
    cuts = [forward_plan(blocks, lines, _TIME, width, group) for group in _GROUPS]
    found = [_described(grouped_forward, kind, blocks, CONVOLVED=True, **_flags(cut, width)) for cut in cuts]
    return [*found, _described(grouped_sums, kind, blocks, WIDTH=width, COLUMNS=pad(width), FINE=False)]


def _backward_launches(kind: str, group: int, hopper: bool) -> list[Launch]:
    width = WIDEST_BACKWARD
    cut = backward_plan(8, _TIME, width, group, _TYPES[kind], hopper)
    there: dict[str, Any] = {"architectures": _HOPPER[hopper], "WIDTH": width, "COLUMNS": pad(width)}
    flags = {**there, **_flags(cut.plan, width)}
    dk, dv = torch.empty(2, 0).unbind(0)
    found = [
        _described(
            grouped_keys, kind, blocks, DK=dk_now is not None, DV=dv_now is not None,
            CONVOLVED=dv_now is not None, **_absent(dk_ptr=dk_now, dv_ptr=dv_now), **flags,
        )
        for dk_now, dv_now, blocks in _key_passes(cut, dk, dv)
    ]  # fmt: skip
    return [
        *found,
        _described(grouped_queries, kind, cut.queries, LEARNED=True, **flags),
        _described(grouped_taps, kind, cut.taps, **there),
        _described(grouped_sums, kind, cut.sums, FINE=True, **there),
    ]


def _absent(**pointers: Tensor | None) -> dict[str, Any]:
    return {name: None for name, given in pointers.items() if given is None}


def _state_launches(kind: str, width: int, lines: int) -> list[Launch]:
    sizes: dict[str, Any] = {"WIDTH": width, "COLUMNS": pad(width), "CONVOLVED": True}
    step, tree = step_blocks(lines, width), tree_blocks(lines, 64, width, _TYPES[kind])
    found = [_described(grouped_step, kind, step, SLOTS=step.piece, **sizes)]
    if kind != "fp32" or width <= WIDEST_FLOAT32:
        found.append(_described(grouped_tree, kind, tree, PRECISION=_precision(_TYPES[kind]), **sizes))
    return found


def launches() -> list[Launch]:
    """Every choice of blocks, each with the flags that ask most of the registers."""
    found = []
    for kind in _TYPES:
        for width, lines in ((64, 1), (64, 4096), (128, 4096)):
            if kind != "fp32" or width <= WIDEST_FLOAT32:
                found += _forward_launches(kind, width, lines)
            found += _state_launches(kind, width, lines)
        for group in _GROUPS:
            for hopper in (False, True):
                found += _backward_launches(kind, group, hopper)
    for backward in (False, True):
        sizes: dict[str, Any] = {"WIDTH": WIDEST_BACKWARD, "BACKWARD": backward, **_ACCUMULATED}
        found.append(_described(grouped_accumulate, "fp32", GroupedBlocks(0, 0, 0, 4, 1), **sizes))
    return list({str(launch): launch for launch in found}.values())
