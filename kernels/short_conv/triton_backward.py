"""The gradient of the short convolution in one pass: of the inputs, the state, the taps and the bias."""

import triton
import triton.language as tl

from recallfront.kernels.gpu.triton_math import logistic
from recallfront.kernels.short_conv.triton_forward import convolved, row_before


@triton.jit(do_not_specialize=["time"])
def conv_backward(
    x_ptr,  # (B, T, C), rows contiguous
    taps_ptr,  # (C, K)
    bias_ptr,  # (C,)
    initial_ptr,  # (B, K - 1, C)
    position_ptr,  # (B, T), whole numbers
    grad_ptr,  # (B, T, C), rows contiguous
    grad_last_ptr,  # (B, K - 1, C), contiguous
    grad_x_ptr,  # (B, T, C)
    grad_initial_ptr,  # (B, K - 1, C)
    part_ptr,  # (B spans, K + 1, C) float32: of taps and bias, to be summed
    time,
    channels,
    x_batch_stride,
    x_time_stride,
    grad_batch_stride,
    grad_time_stride,
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
    """dL/dx_t = sum_d taps_{K-1-d} dL/dy_{t+d}: row t is known K - 1 tokens later, and so are the rows of the state.

    The last K - 1 inputs are an output too, `last`, and its gradient adds to theirs.
    """
    blocks = tl.cdiv(channels, WIDTH)
    spans = tl.cdiv(time, SPAN)
    program = tl.program_id(0)
    column = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
    span = program // blocks % spans
    batch = (program // (blocks * spans)).to(tl.int64)
    inside = column < channels
    begin = (span * SPAN).to(tl.int64)
    end = tl.minimum(begin + SPAN, time)
    x_base = x_ptr + batch * x_batch_stride + column
    grad_base = grad_ptr + batch * grad_batch_stride + column
    state_base = batch * (TAPS - 1) * channels + column
    bias = tl.zeros([WIDTH], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    taps = ()
    grad_taps = ()
    for j in tl.static_range(TAPS):
        taps = taps + (tl.load(taps_ptr + column * TAPS + j, mask=inside, other=0.0).to(tl.float32),)
        grad_taps = grad_taps + (tl.zeros([WIDTH], tl.float32),)
    grad_bias = tl.zeros([WIDTH], tl.float32)
    rows = ()
    slopes = ()  # of the last K - 1 outputs
    places = ()  # and their positions
    for j in tl.static_range(TAPS - 1):
        t = begin - (TAPS - 1) + j
        state_row = initial_ptr
        if HAS_STATE:
            state_row = initial_ptr + state_base + (t + TAPS - 1) * channels
        rows = rows + (row_before(x_base + t * x_time_stride, state_row, t, time, inside, HAS_STATE),)
        slopes = slopes + (tl.zeros([WIDTH], tl.float32),)
        places = places + (begin * 0,)
    x_end = end
    if SILU:
        x_end = tl.minimum(end + TAPS - 1, time)
    # K - 1 tokens more, for the last rows of the span
    for start in range(begin, end + TAPS - 1, STEPS):
        for k in tl.static_range(STEPS):
            t = tl.cast(start, tl.int64) + k
            x = tl.load(x_base + t * x_time_stride, mask=inside & (t < x_end), other=0.0)
            rows = rows + (x.to(tl.float32),)
        # sums of a few tokens first: a long sum one by one loses digits
        few_taps = ()
        for _ in tl.static_range(TAPS):
            few_taps = few_taps + (tl.zeros([WIDTH], tl.float32),)
        few_bias = tl.zeros([WIDTH], tl.float32)
        for k in tl.static_range(STEPS):
            t = tl.cast(start, tl.int64) + k
            used = (t < end + TAPS - 1) & (t < time)
            slope = tl.load(grad_base + t * grad_time_stride, mask=inside & used, other=0.0).to(tl.float32)
            position = t
            if HAS_POSITIONS:
                position = tl.load(position_ptr + batch * time + tl.minimum(t, time - 1)).to(tl.int64)
            if SILU:
                y = convolved(rows, k, taps, bias, position, TAPS, HAS_POSITIONS)
                s = logistic(y, PRECISE)
                slope = slope * s * (1.0 + y * (1.0 - s))
            own = tl.where(t < end, slope, 0.0)
            few_bias += own
            grown = ()
            for j in tl.static_range(TAPS):
                term = own * rows[k + j]
                if HAS_POSITIONS and j < TAPS - 1:
                    term = tl.where(position >= TAPS - 1 - j, term, 0.0)
                grown = grown + (few_taps[j] + term,)
            few_taps = grown
            slopes, places = slopes + (slope,), places + (position,)
            # slopes[k + d] is of token t - (K - 1) + d: with it the gradient of row t - (K - 1) is complete
            row = t - (TAPS - 1)
            grad_x = tl.zeros([WIDTH], tl.float32)
            for d in tl.static_range(TAPS):
                term = taps[TAPS - 1 - d] * slopes[k + d]
                if HAS_POSITIONS and d > 0:
                    term = tl.where(places[k + d] >= d, term, 0.0)
                grad_x += term
            if TAPS > 1:
                kept = inside & (row >= time - (TAPS - 1)) & (row < time)
                last_row = grad_last_ptr + state_base + (row - time + TAPS - 1) * channels
                grad_x += tl.load(last_row, mask=kept & (row >= 0) & (row < end), other=0.0).to(tl.float32)
            grad_row = grad_x_ptr + (batch * time + row) * channels + column
            kind = grad_x_ptr.dtype.element_ty
            tl.store(grad_row, grad_x.to(kind), mask=inside & (row >= begin) & (row < end))
            if HAS_STATE:
                if k < TAPS - 1:  # the first tokens of the first span complete the state's rows
                    shifted = inside & (row < 0) & (row + TAPS - 1 >= time)
                    carried = grad_last_ptr + state_base + (row + TAPS - 1 - time) * channels
                    grad_x += tl.load(carried, mask=shifted, other=0.0).to(tl.float32)
                    grad_row = grad_initial_ptr + state_base + (row + TAPS - 1) * channels
                    tl.store(grad_row, grad_x.to(grad_initial_ptr.dtype.element_ty), mask=inside & (row < 0))
        grown = ()
        for j in tl.static_range(TAPS):
            grown = grown + (grad_taps[j] + few_taps[j],)
        grad_taps, grad_bias = grown, grad_bias + few_bias
        rows = rows[STEPS : STEPS + TAPS - 1]
        slopes = slopes[STEPS : STEPS + TAPS - 1]
        places = places[STEPS : STEPS + TAPS - 1]
    part = part_ptr + (batch * spans + span) * (TAPS + 1) * channels + column
    for j in tl.static_range(TAPS):
        tl.store(part + j * channels, grad_taps[j], mask=inside)
    tl.store(part + TAPS * channels, grad_bias, mask=inside)
