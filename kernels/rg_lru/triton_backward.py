"""The gradient of gates and scan in one pass backwards in time; the gates are computed again from their logits."""

import triton
import triton.language as tl

from recallfront.kernels.gpu.triton_scan import enter
from recallfront.kernels.rg_lru.triton_forward import decay_of, gate_of


@triton.jit(do_not_specialize=["batch_size", "time", "mark_batch_stride"])
def gated_scan_backward(
    gates_ptr,  # (blocks, B T, 2 D / blocks): r's logits, then i's
    v_ptr,  # (B, T, D), rows contiguous
    rate_ptr,  # (D,) float32
    initial_ptr,  # (B, D) float32
    mark_ptr,  # (B or 1, T) bytes: 1 a document starts, 2 padding
    h_ptr,  # (B, T, D), contiguous
    grad_h_ptr,  # (B, T, D), rows contiguous
    grad_last_ptr,  # (B, D) float32, contiguous
    grad_gates_ptr,  # as gates
    grad_v_ptr,  # (B, T, D), contiguous
    grad_rate_ptr,  # (programs a channel, D) float32, to be summed
    grad_initial_ptr,  # (B, D) float32
    word_ptr,  # (tiles, B, D) int64 zeros
    ticket_ptr,  # (1,) int64 zero
    batch_size,
    time,
    blocks,
    size,
    v_batch_stride,
    v_time_stride,
    grad_batch_stride,
    grad_time_stride,
    mark_batch_stride,
    HAS_INITIAL: tl.constexpr,
    HAS_MARKS: tl.constexpr,
    CHAINED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """G_t = dL/dh_t + a_{t+1} G_{t+1} reaches b_t = m_t i_t v_t, and G_t h_{t-1} reaches a_t.

    The state of the scan is F_t = a_t G_t = a_t (dL/dh_t + F_{t+1}): so a tile needs a of its own tokens only.
    F_0 is the gradient of the initial state, and the final state's comes in as F_T.
    """
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
    grad_rate = tl.zeros([GROUPS, WIDTH], tl.float32)
    fresh = inside
    if CHAINED:
        fresh = within < tl.where(first == 0, size, 0)
    carry = tl.load(grad_last_ptr + here, mask=fresh, other=0.0)
    for done in range(first, end):
        tile = tiles - 1 - done
        begin = tl.cast(tile * (GROUPS * ROWS), tl.int64)
        gate_base = (block * batch_size * time + batch * time + begin) * (2 * size)
        base = (batch * time + begin) * width + block * size
        v_tile = v_ptr + batch * v_batch_stride + begin * v_time_stride + block * size
        grad_tile = grad_h_ptr + batch * grad_batch_stride + begin * grad_time_stride + block * size
        r_rows = ()
        grad_rows = ()
        decay = tl.full([GROUPS, WIDTH], 1.0, tl.float32)
        total = tl.zeros([GROUPS, WIDTH], tl.float32)
        for k in tl.static_range(ROWS):  # the last row of a group comes first
            step = group + (ROWS - 1 - k)
            row = tile * (GROUPS * ROWS) + step
            live = (row < time)[:, None] & inside[None, :]
            gate = gates_ptr + gate_base + step[:, None] * (2 * size) + within[None, :]
            # past the end r is 0 and a is 1: what comes in is handed on
            r = gate_of(tl.load(gate, mask=live, other=float("-inf")))
            grad_place = step[:, None] * grad_time_stride + within[None, :]
            grad = tl.load(grad_tile + grad_place, mask=live, other=0.0)
            a, _ = decay_of(r, rate)
            if HAS_MARKS:
                mark = tl.load(mark_ptr + batch * mark_batch_stride + row, mask=row < time, other=0)
                a = tl.where((mark == 1)[:, None], 0.0, tl.where((mark == 2)[:, None], 1.0, a))
            decay, total = a * decay, a * (grad.to(tl.float32) + total)
            r_rows, grad_rows = r_rows + (r,), grad_rows + (grad,)
        word = (done * batch_size + batch) * width + column
        later, carry = enter(
            decay, total, carry, word_ptr + word, batch_size * width, done, tiles, inside,
            CHAINED, True, GROUPS, WIDTH,
        )  # fmt: skip
        for k in tl.static_range(ROWS):
            step = group + (ROWS - 1 - k)
            row = tile * (GROUPS * ROWS) + step
            live = (row < time)[:, None] & inside[None, :]
            place = base + step[:, None] * width + within[None, :]
            before = tl.load(h_ptr + place - width, mask=live & (row > 0)[:, None], other=0.0).to(tl.float32)
            if HAS_INITIAL:
                if k == ROWS - 1:
                    opening = within < tl.where(tile == 0, size, 0)
                    initial = tl.load(initial_ptr + here, mask=opening, other=0.0)
                    before = tl.where((row == 0)[:, None], initial[None, :], before)
            gate = gate_base + step[:, None] * (2 * size) + within[None, :]
            i = gate_of(tl.load(gates_ptr + gate + size, mask=live, other=0.0))
            v_place = step[:, None] * v_time_stride + within[None, :]
            v = tl.load(v_tile + v_place, mask=live, other=0.0).to(tl.float32)
            r = r_rows[k]
            a, rest = decay_of(r, rate)
            m = tl.sqrt(rest)
            # dm / dlog a = -a^2 / m; the slope of the square root, 1 / (2 m), is kept below 1000
            slope = a * tl.rsqrt(tl.maximum(rest, 2.5e-7))
            grad = grad_rows[k].to(tl.float32) + later
            later = a * grad
            entering = grad
            free = a
            if not HAS_INITIAL:
                start = (row == 0)[:, None]
                free, m = tl.where(start, 0.0, free), tl.where(start, 1.0, m)
            if HAS_MARKS:
                mark = tl.load(mark_ptr + batch * mark_batch_stride + row, mask=row < time, other=0)
                start, padding = (mark == 1)[:, None], (mark == 2)[:, None]
                later = tl.where(start, 0.0, tl.where(padding, grad, later))
                entering = tl.where(padding, 0.0, grad)
                free, m = tl.where(start, 0.0, free), tl.where(start, 1.0, m)
            reaching = entering * i
            # of log a, nothing where it is not free
            to_rate = (entering * before - reaching * v * slope) * free * r
            grad_rate += to_rate
            grad_r = to_rate * rate * (1.0 - r)
            grad_v = reaching * m
            grad_i = grad_v * v * (1.0 - i)
            kind = grad_gates_ptr.dtype.element_ty
            tl.store(grad_gates_ptr + gate, grad_r.to(kind), mask=live)
            tl.store(grad_gates_ptr + gate + size, grad_i.to(kind), mask=live)
            tl.store(grad_v_ptr + place, grad_v.to(kind), mask=live)
    rate_place = (first * batch_size + batch) * width + column
    tl.store(grad_rate_ptr + rate_place, tl.sum(grad_rate, axis=0), mask=inside)
    if HAS_INITIAL and end == tiles:
        tl.store(grad_initial_ptr + here, carry, mask=inside)
