"""The short convolution, its activation and its state in one pass; the rows before a token stay in registers."""

import triton
import triton.language as tl

from recallfront.kernels.gpu.triton_math import logistic


@triton.jit
def row_before(x_row, initial_row, t, time, inside, HAS_STATE: tl.constexpr):
    """Input t (C) in float32, which comes from the state where t is negative; 0 where there is none.

    x_row and initial_row point to where row t would stand.
    """
    live = inside & (t >= 0) & (t < time)
    x = tl.load(x_row, mask=live, other=0.0).to(tl.float32)
    if HAS_STATE:
        x += tl.load(initial_row, mask=inside & (t < 0), other=0.0).to(tl.float32)
    return x


@triton.jit
def convolved(
    rows, first: tl.constexpr, taps, bias, position, TAPS: tl.constexpr, HAS_POSITIONS: tl.constexpr
):
    """bias + sum_j taps_j rows_{first + j}, over rows of the same document."""
    y = bias
    for j in tl.static_range(TAPS):
        term = taps[j] * rows[first + j]
        if HAS_POSITIONS and j < TAPS - 1:
            term = tl.where(position >= TAPS - 1 - j, term, 0.0)
        y += term
    return y


@triton.jit(do_not_specialize=["time"])
def conv_forward(
    x_ptr,  # (B, T, C), rows contiguous
    taps_ptr,  # (C, K)
    bias_ptr,  # (C,)
    initial_ptr,  # (B, K - 1, C)
    position_ptr,  # (B, T) int64
    y_ptr,  # (B, T, C)
    last_ptr,  # (B, K - 1, C)
    time,
    channels,
    x_batch_stride,
    x_time_stride,
    HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    HAS_POSITIONS: tl.constexpr,
    SILU: tl.constexpr,
    PRECISE: tl.constexpr,
    TAPS: tl.constexpr,
    SPAN: tl.constexpr,
    STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    blocks = tl.cdiv(channels, WIDTH)
    spans = tl.cdiv(time, SPAN)
    program = tl.program_id(0)
    column = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
    begin = (program // blocks % spans) * SPAN
    batch = (program // (blocks * spans)).to(tl.int64)
    inside = column < channels
    end = tl.minimum(begin + SPAN, time)
    x_base = x_ptr + batch * x_batch_stride + column
    y_base = y_ptr + batch * time * channels + column
    initial_base = initial_ptr
    if HAS_STATE:
        initial_base = initial_ptr + batch * (TAPS - 1) * channels + column
    bias = tl.zeros([WIDTH], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    taps = ()
    for j in tl.static_range(TAPS):
        taps = taps + (tl.load(taps_ptr + column * TAPS + j, mask=inside, other=0.0).to(tl.float32),)
    begin = begin.to(tl.int64)
    rows = ()
    for j in tl.static_range(TAPS - 1):
        t = begin - (TAPS - 1) + j
        state_row = initial_base
        if HAS_STATE:
            state_row = initial_base + (t + TAPS - 1) * channels
        row = row_before(x_base + t * x_time_stride, state_row, t, time, inside, HAS_STATE)
        rows = rows + (row,)
    for start in range(begin, end, STEPS):
        for k in tl.static_range(STEPS):
            t = tl.cast(start, tl.int64) + k
            x = tl.load(x_base + t * x_time_stride, mask=inside & (t < time), other=0.0)
            rows = rows + (x.to(tl.float32),)
        for k in tl.static_range(STEPS):
            t = tl.cast(start, tl.int64) + k
            position = t
            if HAS_POSITIONS:
                position = tl.load(position_ptr + batch * time + tl.minimum(t, time - 1))
            y = convolved(rows, k, taps, bias, position, TAPS, HAS_POSITIONS)
            if SILU:
                y = y * logistic(y, PRECISE)
            tl.store(y_base + t * channels, y.to(y_ptr.dtype.element_ty), mask=inside & (t < end))
        rows = rows[STEPS : STEPS + TAPS - 1]
    if end == time:
        for j in tl.static_range(TAPS - 1):
            t = tl.cast(time, tl.int64) - (TAPS - 1) + j
            state_row = initial_base
            if HAS_STATE:
                state_row = initial_base + (t + TAPS - 1) * channels
            row = row_before(x_base + t * x_time_stride, state_row, t, time, inside, HAS_STATE)
            last_row = last_ptr + (batch * (TAPS - 1) + j) * channels + column
            tl.store(last_row, row.to(last_ptr.dtype.element_ty), mask=inside)
