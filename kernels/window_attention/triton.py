"""Window attention's kernels: their launches, and their registration with torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch
from recallfront.kernels.gpu.launching import launch
from recallfront.kernels.window_attention.plan import (
    SHORT,
    TILE,
    WindowBlocks,
    first_keys,
    key_shares,
    last_queries,
    pad,
    plan,
    splits,
    step_blocks,
)
from recallfront.kernels.window_attention.triton_backward import (
    window_delta,
    window_delta_exact,
    window_keys,
    window_queries,
)
from recallfront.kernels.window_attention.triton_forward import window_forward
from recallfront.kernels.window_attention.triton_step import window_step, window_step_join

_LOG2E = 1.4426950408889634


def _rows(x: Tensor) -> Tensor:
    """x (B, T, H, D) as it is where the kernels can step through it, copied where they cannot.

    They need a head's numbers side by side, and 32 bits must do for the steps inside a block.
    """
    return x if x.stride(3) == 1 and x.stride(1) < 1 << 23 else x.contiguous()


@lru_cache(maxsize=64)
def _slopes(slopes: tuple[float, ...], device: torch.device) -> Tensor:
    """Slopes in units of log2, kept: a copy to the device cannot be captured in a CUDA graph."""
    return torch.tensor(slopes, dtype=torch.float32, device=device) * _LOG2E


class _Call:
    """What the launches of one call have in common: tensors that fit the kernels, strides, sizes, flags."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor | None,
        slopes: Sequence[float] | None,
        window_size: int | None,
        scale: float,
    ) -> None:
        self.q, self.k, self.v = _rows(q), _rows(k), _rows(v)
        self.segments = segments if segments is None or segments.stride(1) == 1 else segments.contiguous()
        self.batch, self.time, self.heads, self.width = q.shape
        self.keys, self.kv_heads, self.value = k.shape[1], k.shape[2], v.shape[3]
        self.group = self.heads // self.kv_heads
        # None: every query sees all keys up to its own
        self.window_size = None if window_size is None or window_size >= self.keys else window_size
        if self.keys == 1:
            self.window_size = 1
        self.slopes = None if slopes is None else _slopes(tuple(slopes), q.device)
        self.plan = plan(
            self.width, self.value, q.dtype, self.window_size, slopes is not None, segments is not None
        )
        self.numbers = (self.window_size or 0, scale * _LOG2E)
        self.constants: dict[str, Any] = {
            **_sizes(self.width, self.value),
            "WINDOWED": self.window_size is not None,
            "PACKED": segments is not None,
            "TILTED": slopes is not None,
        }

    @property
    def exact(self) -> bool:
        return self.q.dtype == torch.float32

    def strides(self, *tensors: Tensor) -> list[int]:
        steps = [step for x in tensors for step in x.stride()[:3]]
        return [*steps, 0 if self.segments is None else self.segments.stride(0)]

    def reach(self, queries: int) -> Tensor | None:
        return None if self.segments is None else first_keys(self.segments, self.time, queries)

    def programs(self, blocks: int) -> tuple[int]:
        return (-(-self.time // blocks) * self.batch * self.heads,)

    def own_values(self) -> Tensor:
        """The value of each query's own token (B, T, H_kv, D_v)."""
        return self.v[:, self.keys - self.time :]


def _sizes(width: int, value: int) -> dict[str, int]:
    return {"WIDTH": width, "VALUE": value, "COLUMNS": pad(width), "VALUE_COLUMNS": pad(value)}


def _options(blocks: WindowBlocks) -> dict[str, int]:
    return {
        "QUERIES": blocks.queries,
        "KEYS": blocks.keys,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


@torch.library.custom_op("recallfront::window_attention", mutates_args=())
def window_attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Tensor | None,
    slopes: Sequence[float] | None,
    window_size: int | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """o (B, T, H, D_v), and the norms of `window_forward`; arguments as `window_attention` has them."""
    call = _Call(q, k, v, segments, slopes, window_size, scale)
    o = torch.empty(call.batch, call.time, call.heads, call.value, dtype=q.dtype, device=q.device)
    norms = torch.empty(call.batch, call.heads, 2, call.time, dtype=torch.float32, device=q.device)
    if call.window_size == 1:  # a query that sees itself alone takes its own value
        o.unflatten(2, (call.kv_heads, call.group)).copy_(call.own_values()[:, :, :, None])
        return o, norms.zero_()
    blocks = call.plan.forward
    tensors = (call.q, call.k, call.v, o, norms, call.slopes, call.segments, call.reach(blocks.queries))
    sizes = (call.time, call.keys, call.heads, call.group)
    launch(
        window_forward,
        call.programs(blocks.queries),
        *tensors,
        *call.strides(call.q, call.k, call.v),
        *sizes,
        *call.numbers,
        **call.constants,
        EXACT=call.exact,
        **_options(blocks),
    )
    return o, norms


@window_attention_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    batch, time, heads, _ = q.shape
    o = q.new_empty(batch, time, heads, v.shape[3])
    return o, q.new_empty(batch, heads, 2, time, dtype=torch.float32)


@torch.library.custom_op("recallfront::window_attention_backward", mutates_args=())
def window_attention_backward_op(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    norms: Tensor,
    segments: Tensor | None,
    slopes: Sequence[float] | None,
    window_size: int | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    call, do = _Call(q, k, v, segments, slopes, window_size, scale), _rows(do)
    if call.window_size == 1:
        dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        dv[:, call.keys - call.time :] = do.unflatten(2, (call.kv_heads, call.group)).sum(3)
        return dq, dk, dv
    delta = _delta(call, do, o, norms)
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    blocks = call.plan.queries
    shared = (call.q, call.k, call.v, do, norms, delta)
    steps = call.strides(call.q, call.k, call.v, do)
    launch(
        window_queries,
        call.programs(blocks.queries),
        *shared,
        dq,
        call.slopes,
        call.segments,
        call.reach(blocks.queries),
        *steps,
        call.time,
        call.keys,
        call.heads,
        call.group,
        *call.numbers,
        scale,
        **call.constants,
        EXACT=call.exact,
        **_options(blocks),
    )
    blocks = call.plan.keys
    programs = -(-call.keys // blocks.keys) * call.batch * call.kv_heads
    shares = key_shares(programs, call.group)
    parts = q.dtype if shares == 1 else torch.float32
    lines = (call.batch, call.keys, call.kv_heads * shares)
    dk = torch.empty(*lines, call.width, dtype=parts, device=q.device)
    dv = torch.empty(*lines, call.value, dtype=parts, device=q.device)
    launch(
        window_keys,
        (programs * shares,),
        *shared,
        dk,
        dv,
        call.slopes,
        call.segments,
        None if segments is None else last_queries(segments, call.time, blocks.keys),
        *steps,
        call.time,
        call.keys,
        call.heads,
        shares,
        *call.numbers,
        scale,
        **call.constants,
        EXACT=call.exact,
        MEMBERS=call.group // shares,
        **_options(blocks),
    )
    if shares > 1:
        dk, dv = (x.unflatten(2, (call.kv_heads, shares)).sum(3).to(q.dtype) for x in (dk, dv))
    return dq, dk, dv


def _delta(call: _Call, do: Tensor, o: Tensor, norms: Tensor) -> Tensor:
    """What the softmax's normalisation takes off each query's gradients of weights (B, H, T)."""
    delta = torch.empty(call.batch, call.heads, call.time, dtype=torch.float32, device=o.device)
    if call.exact:
        blocks = call.plan.forward
        launch(
            window_delta_exact,
            call.programs(blocks.queries),
            *(call.q, call.k, call.v, do, norms, delta, call.slopes, call.segments),
            call.reach(blocks.queries),
            *call.strides(call.q, call.k, call.v, do),
            *(call.time, call.keys, call.heads, call.group),
            *call.numbers,
            **call.constants,
            **_options(blocks),
        )
    else:
        launch(
            window_delta,
            call.programs(TILE),
            *(o, do, delta),
            *do.stride()[:3],
            *(call.time, call.heads),
            VALUE=call.value,
            VALUE_COLUMNS=pad(call.value),
            QUERIES=TILE,
            num_warps=4,
            num_stages=1,
        )
    return delta


@window_attention_backward_op.register_fake
def _(do: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: object) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, segments, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, segments)
    ctx.set_materialize_grads(False)


def _back(ctx: Any, do: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients: tuple[Tensor | None, ...] = (None, None, None)
    if do is not None:
        q, k, v, o, norms, segments = ctx.saved_tensors
        gradients = window_attention_backward_op(do, q, k, v, o, norms, segments, *ctx.settings)
    return (*gradients, None, None, None, None)


window_attention_op.register_autograd(_back, setup_context=_keep)


@torch.library.custom_op("recallfront::window_attention_step", mutates_args=("keys", "values"))
def window_attention_step_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    bias: Tensor | None,
    slopes: Sequence[float] | None,
    scale: float,
) -> Tensor:
    """o (B, H, D_v); arguments as `window_attention_step` has them. The ring takes up k and v."""
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    lengths = lengths.contiguous()
    batch, heads, width = q.shape
    kv_heads, slots, value = keys.shape[1], keys.shape[2], values.shape[3]
    group = heads // kv_heads
    count, share = splits(batch * kv_heads, slots, group)
    blocks = step_blocks(width, value, q.dtype, group)
    o = torch.empty(batch, heads, value, dtype=q.dtype, device=q.device)
    parts = norms = None
    if count > 1:
        parts = torch.empty(batch, kv_heads, count, group, value, dtype=torch.float32, device=q.device)
        norms = torch.empty(batch, kv_heads, count, 2, group, dtype=torch.float32, device=q.device)
    bias_steps = [0, 0]
    if bias is not None:
        bias = bias.expand(batch, heads, 1, slots)
        bias = bias if bias.stride(3) == 1 else bias.contiguous()
        bias_steps = [bias.stride(0), bias.stride(1)]
    launch(
        window_step,
        (batch * kv_heads * count,),
        *(q, k, v, keys, values, lengths, o, parts, norms, bias),
        None if slopes is None else _slopes(tuple(slopes), q.device),
        *(step for x in (q, k, v) for step in x.stride()[:2]),
        *(step for x in (keys, values) for step in x.stride()[:3]),
        *bias_steps,
        *(slots, kv_heads, count, share),
        scale * _LOG2E,
        GROUP=group,
        ROWS=1 if group == 1 else pad(group),
        **_sizes(width, value),
        SLOTS=blocks.slots,
        BIASED=bias is not None,
        TILTED=slopes is not None,
        SPLIT=count > 1,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    if parts is not None:
        launch(
            window_step_join,
            (batch * heads,),
            *(parts, norms, o, count),
            GROUP=group,
            VALUE=value,
            VALUE_COLUMNS=pad(value),
            PARTS=max(2, 1 << (count - 1).bit_length()),
            num_warps=4,
            num_stages=1,
        )
    return o


@window_attention_step_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, *others: object) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], values.shape[3])


_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WIDE = ("norms_ptr", "delta_ptr", "slopes_ptr", "parts_ptr")
_NAMED = {name: "*fp32" for name in _WIDE} | {
    "segments_ptr": "*i64",
    "reach_ptr": "*i32",
    "lengths_ptr": "*i64",
    "scale": "fp32",
    "final_scale": "fp32",
}


@dataclass(frozen=True)
class _Case:
    """A kind of call to compile the kernels for."""

    kind: str
    width: int
    window_size: int | None = 2048
    tilted: bool = True
    packed: bool = False

    def launches(self) -> list[Launch]:
        cut = plan(self.width, self.width, _TYPES[self.kind], self.window_size, self.tilted, self.packed)
        absent = {} if self.tilted else {"slopes_ptr": None}
        absent |= {} if self.packed else {"segments_ptr": None, "reach_ptr": None}
        flags = {
            "WINDOWED": self.window_size is not None,
            "PACKED": self.packed,
            "TILTED": self.tilted,
            "EXACT": self.kind == "fp32",
        }

        def one(kernel: Any, blocks: WindowBlocks, **more: Any) -> Launch:
            constants = {**absent, **_sizes(self.width, self.width), **flags, **more}
            constants |= {"QUERIES": blocks.queries, "KEYS": blocks.keys}
            return _described(kernel, self.kind, blocks.warps, blocks.stages, constants)

        found = [
            one(window_forward, cut.forward),
            one(window_queries, cut.queries),
            one(window_keys, cut.keys, MEMBERS=1),
            one(window_keys, cut.keys, MEMBERS=4),
        ]
        return [*found, one(window_delta_exact, cut.forward)] if self.kind == "fp32" else found


def _described(kernel: Any, kind: str, warps: int, stages: int, constants: dict[str, Any]) -> Launch:
    """A launch with tensors of the type `kind`; a pointer that is named among the constants is not given."""
    given = {name: constants[name] for name in kernel.arg_names if name in constants}
    signature = {
        name: _NAMED.get(name, f"*{kind}" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in constants
    }
    return Launch(kernel, signature, given, warps, stages)


def _step_launches(kind: str, width: int, group: int, biased: bool) -> list[Launch]:
    sizes = {**_sizes(width, width), "GROUP": group, "ROWS": 1 if group == 1 else pad(group), "PARTS": 64}
    blocks = step_blocks(width, width, _TYPES[kind], group)
    sizes |= {"SLOTS": blocks.slots}
    flags = {"BIASED": biased, "TILTED": not biased, "SPLIT": not biased}
    absent = ("slopes_ptr", "parts_ptr", "norms_ptr") if biased else ("bias_ptr",)
    found = [
        _described(
            window_step, kind, blocks.warps, blocks.stages, {**sizes, **flags, **dict.fromkeys(absent)}
        )
    ]
    return found if biased else [*found, _described(window_step_join, kind, 4, 1, sizes)]


def launches() -> list[Launch]:
    """Every choice of blocks, each with the flags that ask most of the registers."""
    cases = []
    for width in (64, 128, 256):
        cases += [_Case("fp32", width), _Case("bf16", width), _Case("bf16", width, packed=True)]
        cases += [_Case("bf16", width, None, tilted=False), _Case("bf16", width, SHORT)]
    cases += [_Case("bf16", 80), _Case("fp16", 128)]
    found = [launch for case in cases for launch in case.launches()]
    delta = {"VALUE": 256, "VALUE_COLUMNS": 256, "QUERIES": TILE}
    found.append(_described(window_delta, "bf16", 4, 1, delta))
    for kind in ("bf16", "fp32"):
        for width, group, biased in ((64, 1, True), (128, 1, False), (128, 8, False), (256, 16, False)):
            found += _step_launches(kind, width, group, biased)
    return list({str(launch): launch for launch in found}.values())
