"""The linear scan on a GPU: launches, and their registration with PyTorch."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch, describe
from recallfront.kernels.gpu.launching import launch
from recallfront.kernels.gpu.triton_scan import FILLED, ScanPlan, chain_of, rows_together
from recallfront.kernels.linear_scan.triton_backward import scan_backward
from recallfront.kernels.linear_scan.triton_forward import scan_forward

WALK = ScanPlan(rows=4, chained=False)
CHAIN = ScanPlan(rows=6, chained=True)
_STEP_BLOCK, _STEP_WARPS = 256, 2


def plan(b: Tensor) -> ScanPlan:
    """The cut for b (B, T, D), by the sizes alone: a rerun gives the same bits."""
    batch, time, width = b.shape
    return WALK if batch * triton.cdiv(width, WALK.width) >= FILLED or time <= WALK.time else CHAIN


@torch.library.custom_op("recallfront::linear_scan", mutates_args=())
def scan(a: Tensor, b: Tensor, initial_state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """h (B, T, D) in the type of b and the last h (B, D) in float32; initial_state (B, D), reset (B, T) bool."""
    batch, time, width = b.shape
    a, b = rows_together(a), rows_together(b)
    h = torch.empty(batch, time, width, dtype=b.dtype, device=b.device)
    last = torch.empty(batch, width, dtype=torch.float32, device=b.device)
    cut = plan(b)
    words, ticket, tiles = chain_of(cut, batch, time, width, b)
    programs = tiles * batch * triton.cdiv(width, cut.width)
    initial = None if initial_state is None else initial_state.contiguous()
    marks = None if reset is None else rows_together(reset).view(torch.uint8)
    launch(
        scan_forward, (programs,), a, b, initial, marks, h, last, words, ticket, batch, time, width,
        a.stride(0), a.stride(1), b.stride(0), b.stride(1), 0 if marks is None else marks.stride(0),
        **_options(cut, initial_state, reset),
    )  # fmt: skip
    return h, last


@scan.register_fake
def _scan_fake(
    a: Tensor, b: Tensor, initial_state: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(b, memory_format=torch.contiguous_format), b.new_empty(
        b.shape[0], b.shape[2], dtype=torch.float32
    )


@torch.library.custom_op("recallfront::linear_scan_backward", mutates_args=())
def backward(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    reset: Tensor | None,
    grad_h: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, b and initial_state (an empty one where that is None)."""
    batch, time, width = h.shape
    a, grad_h = rows_together(a), rows_together(grad_h)
    grad_a = torch.empty(batch, time, width, dtype=a.dtype, device=a.device)
    grad_b = torch.empty(batch, time, width, dtype=h.dtype, device=h.device)
    grad_initial = torch.empty(
        (0,) if initial_state is None else (batch, width), dtype=torch.float32, device=h.device
    )
    cut = plan(h)
    words, ticket, tiles = chain_of(cut, batch, time, width, h)
    programs = tiles * batch * triton.cdiv(width, cut.width)
    initial = None if initial_state is None else initial_state.contiguous()
    marks = None if reset is None else rows_together(reset).view(torch.uint8)
    launch(
        scan_backward, (programs,), a, h, initial, marks, grad_h, grad_last.contiguous(), grad_a, grad_b, grad_initial,
        words, ticket, batch, time, width, a.stride(0), a.stride(1), grad_h.stride(0), grad_h.stride(1),
        0 if marks is None else marks.stride(0),
        **_options(cut, initial_state, reset),
    )  # fmt: skip
    return grad_a, grad_b, grad_initial


@backward.register_fake
def _backward_fake(
    a: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    reset: Tensor | None,
    grad_h: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    initial = grad_last.new_empty(0) if initial_state is None else torch.empty_like(grad_last)
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(a, memory_format=contiguous),
        torch.empty_like(h, memory_format=contiguous),
        initial,
    )


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    a, _, initial_state, reset = inputs
    ctx.save_for_backward(a, output[0], initial_state, reset)


def _differentiate(ctx: Any, grad_h: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
    a, h, initial_state, reset = ctx.saved_tensors
    grad_a, grad_b, grad_initial = backward(a, h, initial_state, reset, grad_h, grad_last)
    return grad_a, grad_b, None if initial_state is None else grad_initial.to(initial_state.dtype), None


scan.register_autograd(_differentiate, setup_context=_save)


def _options(cut: ScanPlan, initial_state: object, reset: object) -> dict[str, Any]:
    return {"HAS_INITIAL": initial_state is not None, "HAS_RESET": reset is not None, **cut.options()}


@triton.jit(do_not_specialize=["batch_size"])
def scan_step(a_ptr, b_ptr, state_ptr, h_ptr, batch_size, width, a_stride, b_stride, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < batch_size.to(tl.int64) * width  # a multiple of 16 where width is: then loads are wide
    row, column = place // width, place % width
    a = tl.load(a_ptr + row * a_stride + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + column, mask=inside, other=0.0).to(tl.float32)
    h = a * tl.load(state_ptr + place, mask=inside, other=0.0) + b
    tl.store(h_ptr + place, h.to(h_ptr.dtype.element_ty), mask=inside)
    tl.store(state_ptr + place, h, mask=inside)


@torch.library.custom_op("recallfront::linear_scan_step", mutates_args=("state",))
def step(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """One token: a, b (B, D); h in the type of b. state (B, D), float32 and contiguous, becomes the new one."""
    a, b = rows_together(a), rows_together(b)
    h = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    launch(
        scan_step, (triton.cdiv(b.numel(), _STEP_BLOCK),), a, b, state, h, *b.shape, a.stride(0), b.stride(0),
        num_warps=_STEP_WARPS, BLOCK=_STEP_BLOCK,
    )  # fmt: skip
    return h


@step.register_fake
def _step_fake(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def launches() -> list[Launch]:
    """Every configuration in which these kernels may be launched."""
    found = []
    for kind, given in (("fp32", True), ("bf16", True), ("bf16", None), ("fp16", True)):
        words: dict[str, str | None] = {"word_ptr": "i64", "ticket_ptr": "i64"}
        words |= {"initial_ptr": "fp32" if given else None, "reset_ptr": "u8" if given else None}
        inputs = words | dict.fromkeys(("a_ptr", "b_ptr", "h_ptr"), kind) | {"last_ptr": "fp32"}
        grads = words | dict.fromkeys(("a_ptr", "h_ptr", "grad_h_ptr", "grad_a_ptr", "grad_b_ptr"), kind)
        grads |= {"grad_last_ptr": "fp32", "grad_initial_ptr": "fp32"}
        for cut in (WALK, CHAIN):
            found.append(describe(scan_forward, inputs, **_options(cut, given, given)))
            found.append(describe(scan_backward, grads, **_options(cut, given, given)))
        step_types = dict.fromkeys(("a_ptr", "b_ptr", "h_ptr"), kind) | {"state_ptr": "fp32"}
        found.append(describe(scan_step, step_types, BLOCK=_STEP_BLOCK, num_warps=_STEP_WARPS))
    return found
