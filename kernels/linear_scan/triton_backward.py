"""The gradient of the scan: the same scan, backwards in time."""

import triton
import triton.language as tl

from recallfront.kernels.gpu.triton_scan import enter


@triton.jit(do_not_specialize=["batch_size", "time", "reset_batch_stride"])
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
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """G_t = dL/dh_t + a_{t+1} G_{t+1} is the gradient of b_t; that of a_t is G_t h_{t-1}.

    The state of the scan is F_t = a_t G_t = a_t (dL/dh_t + F_{t+1}): so a tile needs a of its own tokens only.
    F_0 is the gradient of the initial state, and the final state's comes in as F_T.
    """
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
    fresh = inside
    if CHAINED:
        fresh = column < tl.where(first == 0, width, 0)
    carry = tl.load(grad_last_ptr + here, mask=fresh, other=0.0)
    for done in range(first, end):
        tile = tiles - 1 - done
        begin = tl.cast(tile * (GROUPS * ROWS), tl.int64)
        a_tile = a_ptr + batch * a_batch_stride + begin * a_time_stride
        grad_tile = grad_h_ptr + batch * grad_batch_stride + begin * grad_time_stride
        base = (batch * time + begin) * width
        a_rows = ()
        grad_rows = ()
        decay = tl.full([GROUPS, WIDTH], 1.0, tl.float32)
        total = tl.zeros([GROUPS, WIDTH], tl.float32)
        for k in tl.static_range(ROWS):  # the last row of a group comes first
            step = group + (ROWS - 1 - k)
            row = tile * (GROUPS * ROWS) + step
            live = (row < time)[:, None] & inside[None, :]
            a = tl.load(a_tile + step[:, None] * a_time_stride + column[None, :], mask=live, other=1.0)
            grad = tl.load(
                grad_tile + step[:, None] * grad_time_stride + column[None, :], mask=live, other=0.0
            )
            a, grad = a.to(tl.float32), grad.to(tl.float32)
            if HAS_RESET:
                reset = tl.load(reset_ptr + batch * reset_batch_stride + row, mask=row < time, other=0)
                a = tl.where((reset != 0)[:, None], 0.0, a)
            decay, total = a * decay, a * (grad + total)
            a_rows, grad_rows = a_rows + (a,), grad_rows + (grad,)
        word = (done * batch_size + batch) * width + column
        later, carry = enter(
            decay, total, carry, word_ptr + word, batch_size * width, done, tiles, inside,
            CHAINED, True, GROUPS, WIDTH,
        )  # fmt: skip
        for k in tl.static_range(ROWS):
            step = group + (ROWS - 1 - k)
            row = tile * (GROUPS * ROWS) + step
            live = (row < time)[:, None] & inside[None, :]
            place = step[:, None] * width + column[None, :]
            before = tl.load(h_ptr + base - width + place, mask=live & (row > 0)[:, None], other=0.0)
            before = before.to(tl.float32)
            if HAS_INITIAL:
                if k == ROWS - 1:
                    opening = column < tl.where(tile == 0, width, 0)
                    initial = tl.load(initial_ptr + here, mask=opening, other=0.0)
                    before = tl.where((row == 0)[:, None], initial[None, :], before)
            if HAS_RESET:
                reset = tl.load(reset_ptr + batch * reset_batch_stride + row, mask=row < time, other=0)
                before = tl.where((reset != 0)[:, None], 0.0, before)
            grad = grad_rows[k] + later
            later = a_rows[k] * grad
            tl.store(grad_a_ptr + base + place, (grad * before).to(grad_a_ptr.dtype.element_ty), mask=live)
            tl.store(grad_b_ptr + base + place, grad.to(grad_b_ptr.dtype.element_ty), mask=live)
    if HAS_INITIAL and end == tiles:
        tl.store(grad_initial_ptr + here, carry, mask=inside)
