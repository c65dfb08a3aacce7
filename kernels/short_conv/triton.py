"""The short convolution on a GPU: launches, and their registration with PyTorch."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from recallfront.kernels.gpu.compiled import Launch, describe
from recallfront.kernels.gpu.launching import launch
from recallfront.kernels.gpu.triton_math import logistic
from recallfront.kernels.short_conv.triton_backward import conv_backward
from recallfront.kernels.short_conv.triton_forward import conv_forward

SPAN = 64  # tokens a program: the K - 1 before them are read twice
_STEP_WIDTH, STEP_ROWS = 64, 8


def cuts(x: Tensor, taps: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """Channels a warp and tokens that it loads together (at least K - 1), forward and backward.

    Every thread keeps the last K - 1 tokens of its channels, and backward the gradients of as many.
    """
    room = 32 if x.shape[2] <= 32 else 256
    few, wide = taps.shape[1] <= 4, x.dtype == torch.float32
    forward = 256 if few and not wide else 128  # 16 bytes a thread
    back = (128 if few else 64) // (2 if wide else 1)
    steps = 4 if few else 8
    return {"WIDTH": min(room, forward), "STEPS": 8}, {"WIDTH": min(room, back), "STEPS": steps}


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


@torch.library.custom_op("recallfront::short_conv", mutates_args=())
def convolve(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    positions: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """y (B, T, C) and the last K - 1 inputs (B, K - 1, C), for x (B, T, C); arguments as in `short_conv`."""
    batch, time, channels = x.shape
    x = _rows(x)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    last = torch.empty(batch, taps.shape[1] - 1, channels, dtype=x.dtype, device=x.device)
    cut, _ = cuts(x, taps)
    launch(
        conv_forward, (batch * triton.cdiv(time, SPAN) * triton.cdiv(channels, cut["WIDTH"]),), x, taps.contiguous(),
        _whole(bias), _whole(initial_state), _whole(positions), y, last, time, channels, x.stride(0), x.stride(1),
        **_options(x, taps, bias, initial_state, positions, silu), **cut,
    )  # fmt: skip
    return y, last


@convolve.register_fake
def _convolve_fake(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    positions: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    last = x.new_empty(x.shape[0], taps.shape[1] - 1, x.shape[2])
    return torch.empty_like(x, memory_format=torch.contiguous_format), last


@torch.library.custom_op("recallfront::short_conv_backward", mutates_args=())
def backward(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    positions: Tensor | None,
    silu: bool,
    grad: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, of taps and bias (C, K + 1) in float32, of each span to be summed, and of the state."""
    batch, time, channels = x.shape
    size, spans, (_, cut) = taps.shape[1], triton.cdiv(time, SPAN), cuts(x, taps)
    x, grad = _rows(x), _rows(grad)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    part = torch.empty(batch * spans, size + 1, channels, dtype=torch.float32, device=x.device)
    state = (0,) if initial_state is None else initial_state.shape
    grad_initial = torch.empty(state, dtype=x.dtype, device=x.device)
    launch(
        conv_backward, (batch * spans * triton.cdiv(channels, cut["WIDTH"]),), x, taps.contiguous(), _whole(bias),
        _whole(initial_state), _whole(positions), grad, grad_last.contiguous(), grad_x, grad_initial, part, time,
        channels, x.stride(0), x.stride(1), grad.stride(0), grad.stride(1),
        **_options(x, taps, bias, initial_state, positions, silu), **cut,
    )  # fmt: skip
    total = part.sum(0)
    return grad_x, total[:size].T.to(taps.dtype).contiguous(), total[size].clone(), grad_initial


@backward.register_fake
def _backward_fake(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    positions: Tensor | None,
    silu: bool,
    grad: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(taps, memory_format=torch.contiguous_format),
        x.new_empty(x.shape[2], dtype=torch.float32),
        x.new_empty((0,) if initial_state is None else initial_state.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
    _, _, bias, initial_state, _ = ctx.saved_tensors
    grad_x, grad_taps, grad_bias, grad_initial = backward(*ctx.saved_tensors, ctx.silu, grad, grad_last)
    return (
        grad_x,
        grad_taps,
        None if bias is None else grad_bias.to(bias.dtype),
        None if initial_state is None else grad_initial.to(initial_state.dtype),
        None,
        None,
    )


convolve.register_autograd(_differentiate, setup_context=_save)


def _whole(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _options(
    x: Tensor,
    taps: Tensor,
    bias: object,
    initial_state: object,
    positions: object,
    silu: bool,
) -> dict[str, Any]:
    size = taps.shape[1]
    return {
        "HAS_BIAS": bias is not None,
        "HAS_STATE": initial_state is not None and size > 1,
        "HAS_POSITIONS": positions is not None,
        "SILU": silu,
        "PRECISE": x.dtype == torch.float32,
        "TAPS": size,
        "SPAN": SPAN,
        "num_warps": 1,
    }


@triton.jit(do_not_specialize=["batch_size"])
def conv_step(
    x_ptr,  # (B, C), rows contiguous
    taps_ptr,  # (C, K)
    bias_ptr,  # (C,)
    state_ptr,  # (B, K - 1, C), becomes the new one
    y_ptr,  # (B, C)
    batch_size,
    channels,
    x_stride,
    HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr,
    PRECISE: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    blocks = tl.cdiv(channels, WIDTH)
    program = tl.program_id(0)
    column = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
    inside = column < channels
    bias = tl.zeros([WIDTH], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    taps = ()
    for j in tl.static_range(TAPS):
        taps = taps + (tl.load(taps_ptr + column * TAPS + j, mask=inside, other=0.0).to(tl.float32),)
    for k in range(ROWS):
        row = (program // blocks).to(tl.int64) * ROWS + k
        live = inside & (row < batch_size)
        x = tl.load(x_ptr + row * x_stride + column, mask=live, other=0.0)
        y = bias + taps[TAPS - 1] * x.to(tl.float32)
        state = state_ptr + row * (TAPS - 1) * channels + column
        for j in tl.static_range(TAPS - 1):
            old = tl.load(state + j * channels, mask=live, other=0.0)
            y += taps[j] * old.to(tl.float32)
            if j > 0:
                tl.store(state + (j - 1) * channels, old, mask=live)
        if TAPS > 1:
            tl.store(state + (TAPS - 2) * channels, x.to(state_ptr.dtype.element_ty), mask=live)
        if SILU:
            y = y * logistic(y, PRECISE)
        tl.store(y_ptr + row * channels + column, y.to(y_ptr.dtype.element_ty), mask=live)


@torch.library.custom_op("recallfront::short_conv_step", mutates_args=("state",))
def step(x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor, silu: bool) -> Tensor:
    """One token: y (B, C) for x (B, C); state (B, K - 1, C), contiguous, becomes the new one."""
    batch, channels = x.shape
    x = _rows(x)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launch(
        conv_step, (triton.cdiv(batch, STEP_ROWS) * triton.cdiv(channels, _STEP_WIDTH),), x, taps.contiguous(),
        _whole(bias), state, y, batch, channels, x.stride(0), HAS_BIAS=bias is not None, SILU=silu,
        PRECISE=x.dtype == torch.float32, TAPS=taps.shape[1], ROWS=STEP_ROWS, WIDTH=_STEP_WIDTH, num_warps=1,
    )  # fmt: skip
    return y


@step.register_fake
def _step_fake(x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor, silu: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def launches() -> list[Launch]:
    """Every configuration in which these kernels may be launched, with the usual 3 and 4 taps and the most, 8."""
    found = []
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    for kind, size, channels, given in (
        (torch.bfloat16, 4, 256, True),
        (torch.bfloat16, 3, 256, False),
        (torch.bfloat16, 4, 32, True),
        (torch.bfloat16, 4, 32, False),
        (torch.bfloat16, 8, 256, True),
        (torch.float16, 4, 256, True),
        (torch.float32, 4, 256, True),
        (torch.float32, 8, 256, True),
    ):
        name, held = names[kind], True if given else None
        like, taps = torch.empty(0, 0, channels, dtype=kind), torch.empty(0, size)
        flags = _options(like, taps, held, held, held, given)
        forward, back = (flags | cut for cut in cuts(like, taps))
        common: dict[str, str | None] = dict.fromkeys(("x_ptr", "taps_ptr"), name)
        common |= dict.fromkeys(("bias_ptr", "initial_ptr"), name if given else None)
        common |= {"position_ptr": "i64" if given else None}
        grads = dict.fromkeys(("grad_ptr", "grad_last_ptr", "grad_x_ptr", "grad_initial_ptr"), name)
        found.append(describe(conv_forward, common | {"y_ptr": name, "last_ptr": name}, **forward))
        found.append(describe(conv_backward, common | grads | {"part_ptr": "fp32"}, **back))
        pointers = dict.fromkeys(("x_ptr", "taps_ptr", "state_ptr", "y_ptr"), name)
        sizes: dict[str, Any] = {"ROWS": STEP_ROWS, "WIDTH": _STEP_WIDTH, "num_warps": 1}
        sizes |= {key: flags[key] for key in ("HAS_BIAS", "SILU", "PRECISE", "TAPS")}
        bias_type = {"bias_ptr": name if given else None}
        found.append(describe(conv_step, pointers | bias_type, **sizes))
    return found
