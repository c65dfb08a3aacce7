"""The scan forward in time."""

import triton
import triton.language as tl

from recallfront.kernels.triton_scan import compose, hand_on, receive, row_of


@triton.jit
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
    TIME: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    blocks = tl.cdiv(width, WIDTH)
    tiles = tl.cdiv(time, TIME)
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
    fresh = inside
    if CHAINED:
        fresh = column < tl.where(first == 0, width, 0)
    carry = tl.zeros([WIDTH], tl.float32)
    if HAS_INITIAL:
        carry += tl.load(initial_ptr + here, mask=fresh, other=0.0)
    for tile in tl.range(first, end, num_stages=STAGES):
        row = tile * TIME + tl.arange(0, TIME)
        live = (row < time)[:, None] & inside[None, :]
        long_row = row.to(tl.int64)[:, None]
        a_place = batch * a_batch_stride + long_row * a_time_stride + column[None, :]
        b_place = batch * b_batch_stride + long_row * b_time_stride + column[None, :]
        # past the end a is 1 and b is 0: the last row of a tile is what the tile leaves
        a = tl.load(a_ptr + a_place, mask=live, other=1.0).to(tl.float32)
        b = tl.load(b_ptr + b_place, mask=live, other=0.0).to(tl.float32)
        if HAS_RESET:
            reset = tl.load(reset_ptr + batch * reset_batch_stride + row, mask=row < time, other=0)
            a = tl.where((reset != 0)[:, None], 0.0, a)
        decay, h = tl.associative_scan((a, b), 0, compose)
        if CHAINED:
            leaving_decay, leaving = row_of(decay, TIME - 1, TIME), row_of(h, TIME - 1, TIME)
            word = (tile * batch_size + batch) * width + column
            if tile > 0:
                carry = receive(word_ptr + word - batch_size * width, inside)
            leaving = leaving_decay * carry + leaving
            if tile + 1 < tiles:
                hand_on(word_ptr + word, leaving, inside)
            h = decay * carry[None, :] + h
            carry = leaving
        else:
            h = decay * carry[None, :] + h
            carry = row_of(h, TIME - 1, TIME)
        h_place = (batch * time + long_row) * width + column[None, :]
        tl.store(h_ptr + h_place, h.to(h_ptr.dtype.element_ty), mask=live)
    if end == tiles:
        tl.store(last_ptr + here, carry, mask=inside)
