"""The real-gated linear recurrent unit on a GPU: launches, and their registration with PyTorch."""

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch, describe
from recallfront.kernels.gpu.launching import launch
from recallfront.kernels.gpu.triton_scan import FILLED, ScanPlan, chain_of, rows_together
from recallfront.kernels.rg_lru.triton_backward import gated_scan_backward
from recallfront.kernels.rg_lru.triton_forward import gated_scan_forward, gated_step

START, PADDING = 1, 2  # marks of tokens

_STEP_WIDTH, _STEP_WARPS = 256, 2
WALK = ScanPlan(rows=4, chained=False)
CHAIN = ScanPlan(rows=6, chained=True)
# backward a token takes more registers, and of 32 bits most of all
WALK_BACK = replace(WALK, rows=2)
CHAIN_BACK, CHAIN_BACK_WIDE = replace(CHAIN, rows=3), replace(CHAIN, rows=2)


def plan(v: Tensor, blocks: int) -> tuple[ScanPlan, ScanPlan]:
    """The cuts forward and backward for v (B, T, D), by size and type alone: a rerun gives the same bits."""
    batch, time, width = v.shape
    if batch * blocks * triton.cdiv(width // blocks, WALK.width) >= FILLED or time <= WALK.time:
        return WALK, WALK_BACK
    return CHAIN, CHAIN_BACK_WIDE if v.dtype == torch.float32 else CHAIN_BACK


@torch.library.custom_op("recallfront::rg_lru", mutates_args=())
def gated_scan(
    gates: Tensor, v: Tensor, rate: Tensor, initial_state: Tensor | None, marks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h (B, T, D) in the type of v and the last h (B, D) in float32.

    gates (blocks, B T, 2 D / blocks), v (B, T, D), rate (D) = -c softplus(p) and initial_state (B, D) in float32,
    marks (B or 1, T) uint8.
    """
    (batch, time, width), blocks = v.shape, gates.shape[0]
    gates, v, marks = gates.contiguous(), rows_together(v), None if marks is None else rows_together(marks)
    h = torch.empty(batch, time, width, dtype=v.dtype, device=v.device)
    last = torch.empty(batch, width, dtype=torch.float32, device=v.device)
    cut, _ = plan(v, blocks)
    words, ticket, tiles = chain_of(cut, batch, time, width, v)
    programs = tiles * batch * blocks * triton.cdiv(width // blocks, cut.width)
    launch(
        gated_scan_forward, (programs,), gates, v, rate, None if initial_state is None else initial_state.contiguous(),
        marks, h, last, words, ticket, batch, time, blocks, width // blocks, v.stride(0), v.stride(1),
        _batch_stride(marks), **_options(cut, initial_state, marks),
    )  # fmt: skip
    return h, last


@gated_scan.register_fake
def _scan_fake(
    gates: Tensor, v: Tensor, rate: Tensor, initial_state: Tensor | None, marks: Tensor | None
) -> tuple[Tensor, Tensor]:
    last = v.new_empty(v.shape[0], v.shape[2], dtype=torch.float32)
    return torch.empty_like(v, memory_format=torch.contiguous_format), last


@torch.library.custom_op("recallfront::rg_lru_backward", mutates_args=())
def backward(
    gates: Tensor,
    v: Tensor,
    rate: Tensor,
    initial_state: Tensor | None,
    marks: Tensor | None,
    h: Tensor,
    grad_h: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, v, rate and initial_state (an empty one where that is None)."""
    (batch, time, width), blocks = v.shape, gates.shape[0]
    gates, v, grad_h = gates.contiguous(), rows_together(v), rows_together(grad_h)
    marks = None if marks is None else rows_together(marks)
    grad_gates = torch.empty(gates.shape, dtype=gates.dtype, device=v.device)
    grad_v = torch.empty(batch, time, width, dtype=v.dtype, device=v.device)
    state_shape = (0,) if initial_state is None else (batch, width)
    grad_initial = torch.empty(state_shape, dtype=torch.float32, device=v.device)
    _, cut = plan(v, blocks)
    words, ticket, tiles = chain_of(cut, batch, time, width, v)
    grad_rate = torch.empty(tiles * batch, width, dtype=torch.float32, device=v.device)
    programs = tiles * batch * blocks * triton.cdiv(width // blocks, cut.width)
    launch(
        gated_scan_backward, (programs,), gates, v, rate, None if initial_state is None else initial_state.contiguous(),
        marks, h, grad_h, grad_last.contiguous(), grad_gates, grad_v, grad_rate, grad_initial, words, ticket, batch,
        time, blocks, width // blocks, v.stride(0), v.stride(1), grad_h.stride(0), grad_h.stride(1),
        _batch_stride(marks), **_options(cut, initial_state, marks),
    )  # fmt: skip
    return grad_gates, grad_v, grad_rate.sum(0), grad_initial


@backward.register_fake
def _backward_fake(
    gates: Tensor,
    v: Tensor,
    rate: Tensor,
    initial_state: Tensor | None,
    marks: Tensor | None,
    h: Tensor,
    grad_h: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    initial = grad_last.new_empty(0) if initial_state is None else grad_last.new_empty(grad_last.shape)
    return (
        torch.empty_like(gates, memory_format=contiguous),
        torch.empty_like(v, memory_format=contiguous),
        torch.empty_like(rate),
        initial,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[0])


def _differentiate(ctx: Any, grad_h: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
    initial_state = ctx.saved_tensors[3]
    *grads, grad_initial = backward(*ctx.saved_tensors, grad_h, grad_last)
    return *grads, None if initial_state is None else grad_initial, None


gated_scan.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("recallfront::rg_lru_step", mutates_args=("state",))
def step(gates: Tensor, v: Tensor, rate: Tensor, starts: Tensor, state: Tensor) -> Tensor:
    """One token: gates (blocks, B, 2 D / blocks), v (B, D), rate (D) float32, starts (B, 1) bool; h in the type of v.

    state (B, D), float32 and contiguous, becomes the new one.
    """
    (batch, width), blocks = v.shape, gates.shape[0]
    gates, v = gates.contiguous(), rows_together(v)
    h = torch.empty(batch, width, dtype=v.dtype, device=v.device)
    programs = batch * blocks * triton.cdiv(width // blocks, _STEP_WIDTH)
    launch(
        gated_step, (programs,), gates, v, rate, starts.contiguous().view(torch.uint8), state, h, batch, blocks,
        width // blocks, v.stride(0), num_warps=_STEP_WARPS, WIDTH=_STEP_WIDTH,
    )  # fmt: skip
    return h


@step.register_fake
def _step_fake(gates: Tensor, v: Tensor, rate: Tensor, starts: Tensor, state: Tensor) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def _batch_stride(marks: Tensor | None) -> int:
    return 0 if marks is None or marks.shape[0] == 1 else marks.stride(0)


def _options(cut: ScanPlan, initial_state: object, marks: object) -> dict[str, Any]:
    return {"HAS_INITIAL": initial_state is not None, "HAS_MARKS": marks is not None, **cut.options()}


def launches() -> list[Launch]:
    """Every configuration in which these kernels may be launched."""
    found = []
    for kind, given in (("fp32", True), ("bf16", True), ("bf16", None), ("fp16", True)):
        common: dict[str, str | None] = {"word_ptr": "i64", "ticket_ptr": "i64", "rate_ptr": "fp32"}
        common |= {"initial_ptr": "fp32" if given else None, "mark_ptr": "u8" if given else None}
        common |= dict.fromkeys(("gates_ptr", "v_ptr", "h_ptr"), kind)
        grads = common | dict.fromkeys(("grad_h_ptr", "grad_gates_ptr", "grad_v_ptr"), kind)
        grads |= dict.fromkeys(("grad_last_ptr", "grad_rate_ptr", "grad_initial_ptr"), "fp32")
        for cut in (WALK, CHAIN):
            found.append(
                describe(gated_scan_forward, common | {"last_ptr": "fp32"}, **_options(cut, given, given))
            )
        for cut in (WALK_BACK, CHAIN_BACK_WIDE if kind == "fp32" else CHAIN_BACK):
            found.append(describe(gated_scan_backward, grads, **_options(cut, given, given)))
        types = dict.fromkeys(("gates_ptr", "v_ptr", "h_ptr"), kind) | {
            "rate_ptr": "fp32",
            "state_ptr": "fp32",
        }
        types |= {"start_ptr": "u8"}
        found.append(describe(gated_step, types, WIDTH=_STEP_WIDTH, num_warps=_STEP_WARPS))
    return found
