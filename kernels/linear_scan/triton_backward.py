"""The gradient of the scan: the same scan, backwards in time."""

import triton
import triton.language as tl

from recallfront.kernels.triton_scan import compose, hand_on, receive, row_of


@triton.jit
def scan_backward(
    a_ptr,  # (B, T, D), rows contiguous
    h_ptr,  # (B, T, D), contiguous
    initial_ptr,  # (B, D)
    reset_ptr,  # (B, T) bytes
    grad_h_ptr,  # (B, T, D), rows contiguous
    grad_last_ptr,  # (B, D) float32
    grad_a_ptr,  # (B, T, D), contiguous
    grad_b_ptr,  # (B, T, D), contiguous
    grad_initial_ptr,  # (B, D) float32
    word_ptr,  # (tiles, B, D) int64 zeros
    ticket_ptr,  # (1,) int64 zero
    batch_size,
    time,
    width,
    a_batch_stride,
    a_time_stride,
    grad_batch_stride,
    grad_time_stride,
    reset_batch_stride,
    HAS_INITIAL: tl.constexpr,
    HAS_RESET: tl.constexpr,
    CHAINED: tl.constexpr,
    TIME: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """G_t = dL/dh_t + a_{t+1} G_{t+1} is the gradient of b_t; that of a_t is G_t h_{t-1}."""
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
    carry = tl.load(grad_last_ptr + here, mask=fresh, other=0.0)
    for step in tl.range(first, end, num_stages=STAGES):
        row = (tiles - 1 - step) * TIME + tl.arange(0, TIME)
        live = (row < time)[:, None] & inside[None, :]
        followed = (row + 1 < time)[:, None] & inside[None, :]
        past = live & (row > 0)[:, None]
        long_row = row.to(tl.int64)[:, None]
        a_place = batch * a_batch_stride + long_row * a_time_stride + column[None, :]
        place = (batch * time + long_row) * width + column[None, :]
        grad_place = batch * grad_batch_stride + long_row * grad_time_stride + column[None, :]
        # after the last token a counts as 1: the gradient of the final state comes in unchanged
        a = tl.load(a_ptr + a_place + a_time_stride, mask=followed, other=1.0).to(tl.float32)
        grad = tl.load(grad_h_ptr + grad_place, mask=live, other=0.0).to(tl.float32)
        before = tl.load(h_ptr + place - width, mask=past, other=0.0).to(tl.float32)
        if HAS_INITIAL:
            initial = tl.load(
                initial_ptr + here, mask=column < tl.where(tiles - 1 == step, width, 0), other=0.0
            )
            before = tl.where((row == 0)[:, None], initial.to(tl.float32)[None, :], before)
        if HAS_RESET:
            mark = reset_ptr + batch * reset_batch_stride + row
            a = tl.where((tl.load(mark + 1, mask=row + 1 < time, other=0) != 0)[:, None], 0.0, a)
            before = tl.where((tl.load(mark, mask=row < time, other=0) != 0)[:, None], 0.0, before)
        decay, total = tl.associative_scan((a, grad), 0, compose, reverse=True)
        if CHAINED:
            leaving_decay, leaving = row_of(decay, 0, TIME), row_of(total, 0, TIME)
            word = (step * batch_size + batch) * width + column
            if step > 0:
                carry = receive(word_ptr + word - batch_size * width, inside)
            leaving = leaving_decay * carry + leaving
            if step + 1 < tiles:
                hand_on(word_ptr + word, leaving, inside)
            total = decay * carry[None, :] + total
            carry = leaving
        else:
            total = decay * carry[None, :] + total
            carry = row_of(total, 0, TIME)
        tl.store(grad_a_ptr + place, (total * before).to(grad_a_ptr.dtype.element_ty), mask=live)
        tl.store(grad_b_ptr + place, total.to(grad_b_ptr.dtype.element_ty), mask=live)
    if HAS_INITIAL and end == tiles:
        first_a = tl.load(a_ptr + batch * a_batch_stride + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_RESET:
            first_a = tl.where(tl.load(reset_ptr + batch * reset_batch_stride) != 0, 0.0, first_a)
        tl.store(grad_initial_ptr + here, first_a * carry, mask=inside)
