"""The scan forward in time."""

import triton
import triton.language as tl

from recallfront.kernels.gpu.triton_scan import enter


@triton.jit(do_not_specialize=["batch_size", "time", "reset_batch_stride"])
def scan_forward(
    a_ptr,  # (B, T, D), rows contiguous
    b_ptr,  # (B, T, D), rows contiguous
    initial_ptr,  # (B, D)
    reset_ptr,  # (B, T) bytes
    h_ptr,  # (B, T, D), contiguous
    last_ptr,  # (B, D) float32
    word_ptr,  # (tiles, B, D) int64 zeros
    ticket_ptr,  # (1,) int64 zero
    batch_size,
    time,
    width,
    a_batch_stride,
    a_time_stride,
    b_batch_stride,
    b_time_stride,
    reset_batch_stride,
    HAS_INITIAL: tl.constexpr,
    HAS_RESET: tl.constexpr,
    CHAINED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    blocks = tl.cdiv(width, WIDTH)
    tiles = tl.cdiv(time, GROUPS * ROWS)
    program = tl.program_id(0)
    first, end = 0, tiles
    if CHAINED:
        ticket = tl.atomic_add(ticket_ptr, 1, sem="relaxed").to(tl.int32)
        first = ticket // (batch_size * blocks)
        end = first + 1
        program = ticket % (batch_size * blocks)
    batch = (program // blocks).to(tl.int64)
    column = (program % blocks) * WIDTH + tl.arange(0, WIDTH)
    inside = column < width
    here = batch * width + column
    group = tl.arange(0, GROUPS) * ROWS
    carry = tl.zeros([WIDTH], tl.float32)
    if HAS_INITIAL:
        fresh = inside
        if CHAINED:
            fresh = column < tl.where(first == 0, width, 0)
        carry += tl.load(initial_ptr + here, mask=fresh, other=0.0)
    for tile in range(first, end):
        begin = tl.cast(tile * (GROUPS * ROWS), tl.int64)
        a_tile = a_ptr + batch * a_batch_stride + begin * a_time_stride
        b_tile = b_ptr + batch * b_batch_stride + begin * b_time_stride
        a_rows = ()
        b_rows = ()
        decay = tl.full([GROUPS, WIDTH], 1.0, tl.float32)
        total = tl.zeros([GROUPS, WIDTH], tl.float32)
        for k in tl.static_range(ROWS):
            step = group + k
            row = tile * (GROUPS * ROWS) + step
            live = (row < time)[:, None] & inside[None, :]
            # past the end a is 1 and b is 0: the state stays as it is
            a = tl.load(a_tile + step[:, None] * a_time_stride + column[None, :], mask=live, other=1.0)
            b = tl.load(b_tile + step[:, None] * b_time_stride + column[None, :], mask=live, other=0.0)
            a, b = a.to(tl.float32), b.to(tl.float32)
            if HAS_RESET:
                reset = tl.load(reset_ptr + batch * reset_batch_stride + row, mask=row < time, other=0)
                a = tl.where((reset != 0)[:, None], 0.0, a)
            decay, total = a * decay, a * total + b
            a_rows, b_rows = a_rows + (a,), b_rows + (b,)
        word = (tile * batch_size + batch) * width + column
        h, carry = enter(
            decay, total, carry, word_ptr + word, batch_size * width, tile, tiles, inside,
            CHAINED, False, GROUPS, WIDTH,
        )  # fmt: skip
        h_tile = h_ptr + (batch * time + begin) * width
        for k in tl.static_range(ROWS):
            step = group + k
            live = (tile * (GROUPS * ROWS) + step < time)[:, None] & inside[None, :]
            h = a_rows[k] * h + b_rows[k]
            place = step[:, None] * width + column[None, :]
            tl.store(h_tile + place, h.to(h_ptr.dtype.element_ty), mask=live)
    if end == tiles:
        tl.store(last_ptr + here, carry, mask=inside)
