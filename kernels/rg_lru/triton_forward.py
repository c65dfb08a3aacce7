"""Gates and scan of the real-gated linear recurrent unit in one pass: neither a_t nor the gated input is written."""

import triton
import triton.language as tl

from recallfront.kernels.gpu.triton_math import logistic
from recallfront.kernels.gpu.triton_scan import enter


@triton.jit
def gate_of(logit):
    """The logistic function, in float32."""
    return logistic(logit.to(tl.float32), logit.dtype == tl.float32)


@triton.jit
def decay_of(r, rate):
    """a = exp(r rate) and 1 - a^2, for r rate <= 0; to the last place where a is almost 1 as well."""
    log_a = r * rate
    # expm1 by its series where the difference would cancel: nine terms leave less than float32 has at -1/2
    series = 1.0 / 40320 + log_a * (1.0 / 362880)
    series = 1.0 / 5040 + log_a * series
    series = 1.0 / 720 + log_a * series
    series = 1.0 / 120 + log_a * series
    series = 1.0 / 24 + log_a * series
    series = 1.0 / 6 + log_a * series
    series = 0.5 + log_a * series
    less = log_a + log_a * log_a * series
    power = tl.exp2(log_a * 1.4426950408889634)
    near = log_a > -0.5
    less = tl.where(near, less, power - 1.0)
    return tl.where(near, 1.0 + less, power), -less * (2.0 + less)


@triton.jit(do_not_specialize=["batch_size", "time", "mark_batch_stride"])
def gated_scan_forward(
    gates_ptr,  # (blocks, B T, 2 D / blocks): r's logits, then i's
    v_ptr,  # (B, T, D), rows contiguous
    rate_ptr,  # (D,) float32, -c softplus(p)
    initial_ptr,  # (B, D) float32
    mark_ptr,  # (B or 1, T) bytes: 1 a document starts, 2 padding
    h_ptr,  # (B, T, D), contiguous
    last_ptr,  # (B, D) float32
    word_ptr,  # (tiles, B, D) int64 zeros
    ticket_ptr,  # (1,) int64 zero
    batch_size,
    time,
    blocks,
    size,  # D / blocks
    v_batch_stride,
    v_time_stride,
    mark_batch_stride,
    HAS_INITIAL: tl.constexpr,
    HAS_MARKS: tl.constexpr,
    CHAINED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    width = blocks * size
    parts = tl.cdiv(size, WIDTH)
    tiles = tl.cdiv(time, GROUPS * ROWS)
    program = tl.program_id(0)
    first, end = 0, tiles
    if CHAINED:
        ticket = tl.atomic_add(ticket_ptr, 1, sem="relaxed").to(tl.int32)
        first = ticket // (batch_size * blocks * parts)
        end = first + 1
        program = ticket % (batch_size * blocks * parts)
    batch = (program // (blocks * parts)).to(tl.int64)
    block = (program // parts % blocks).to(tl.int64)
    within = (program % parts) * WIDTH + tl.arange(0, WIDTH)
    inside = within < size
    column = block * size + within
    here = batch * width + column
    group = tl.arange(0, GROUPS) * ROWS
    rate = tl.load(rate_ptr + column, mask=inside, other=0.0)[None, :]
    carry = tl.zeros([WIDTH], tl.float32)
    if HAS_INITIAL:
        fresh = inside
        if CHAINED:
            fresh = within < tl.where(first == 0, size, 0)
        carry += tl.load(initial_ptr + here, mask=fresh, other=0.0)
    for tile in range(first, end):
        begin = tl.cast(tile * (GROUPS * ROWS), tl.int64)
        gate_tile = gates_ptr + (block * batch_size * time + batch * time + begin) * (2 * size)
        v_tile = v_ptr + batch * v_batch_stride + begin * v_time_stride + block * size
        a_rows = ()
        b_rows = ()
        decay = tl.full([GROUPS, WIDTH], 1.0, tl.float32)
        total = tl.zeros([GROUPS, WIDTH], tl.float32)
        for k in tl.static_range(ROWS):
            step = group + k
            row = tile * (GROUPS * ROWS) + step
            live = (row < time)[:, None] & inside[None, :]
            gate = gate_tile + step[:, None] * (2 * size) + within[None, :]
            # past the end r is 0: so a is 1, nothing comes in, and the state stays as it is
            r = gate_of(tl.load(gate, mask=live, other=float("-inf")))
            i = gate_of(tl.load(gate + size, mask=live, other=0.0))
            v_place = step[:, None] * v_time_stride + within[None, :]
            v = tl.load(v_tile + v_place, mask=live, other=0.0).to(tl.float32)
            a, rest = decay_of(r, rate)
            m = tl.sqrt(rest)
            if not HAS_INITIAL:
                m = tl.where((row == 0)[:, None], 1.0, m)
            b = m * i * v
            if HAS_MARKS:
                mark = tl.load(mark_ptr + batch * mark_batch_stride + row, mask=row < time, other=0)
                start, padding = (mark == 1)[:, None], (mark == 2)[:, None]
                a = tl.where(start, 0.0, tl.where(padding, 1.0, a))
                b = tl.where(start, i * v, tl.where(padding, 0.0, b))
            decay, total = a * decay, a * total + b
            a_rows, b_rows = a_rows + (a,), b_rows + (b,)
        word = (tile * batch_size + batch) * width + column
        h, carry = enter(
            decay, total, carry, word_ptr + word, batch_size * width, tile, tiles, inside,
            CHAINED, False, GROUPS, WIDTH,
        )  # fmt: skip
        h_tile = h_ptr + (batch * time + begin) * width + block * size
        for k in tl.static_range(ROWS):
            step = group + k
            live = (tile * (GROUPS * ROWS) + step < time)[:, None] & inside[None, :]
            h = a_rows[k] * h + b_rows[k]
            place = step[:, None] * width + within[None, :]
            tl.store(h_tile + place, h.to(h_ptr.dtype.element_ty), mask=live)
    if end == tiles:
        tl.store(last_ptr + here, carry, mask=inside)


@triton.jit(do_not_specialize=["batch_size"])
def gated_step(
    gates_ptr,  # (blocks, B, 2 D / blocks)
    v_ptr,  # (B, D), rows contiguous
    rate_ptr,  # (D,) float32
    start_ptr,  # (B,) bytes
    state_ptr,  # (B, D) float32, becomes the new one
    h_ptr,  # (B, D)
    batch_size,
    blocks,
    size,
    v_stride,
    WIDTH: tl.constexpr,
):
    parts = tl.cdiv(size, WIDTH)
    program = tl.program_id(0)
    batch = (program // (blocks * parts)).to(tl.int64)
    block = (program // parts % blocks).to(tl.int64)
    within = (program % parts) * WIDTH + tl.arange(0, WIDTH)
    inside = within < size
    column = block * size + within
    here = batch * blocks * size + column
    gate = (block * batch_size + batch) * (2 * size) + within
    r = gate_of(tl.load(gates_ptr + gate, mask=inside, other=0.0))
    i = gate_of(tl.load(gates_ptr + gate + size, mask=inside, other=0.0))
    v = tl.load(v_ptr + batch * v_stride + column, mask=inside, other=0.0).to(tl.float32)
    state = tl.load(state_ptr + here, mask=inside, other=0.0)
    a, rest = decay_of(r, tl.load(rate_ptr + column, mask=inside, other=0.0))
    start = tl.load(start_ptr + batch) != 0
    m = tl.where(start, 1.0, tl.sqrt(rest))
    h = tl.where(start, 0.0, a) * state + m * i * v
    tl.store(h_ptr + here, h.to(h_ptr.dtype.element_ty), mask=inside)
    tl.store(state_ptr + here, h, mask=inside)
