"""Grouped attention, backward: one pass forward in time for the queries' gradients, which meet the sums of the groups
before, and one pass back in time for the keys' and values', which meet those of the groups after.
"""

import triton
import triton.language as tl

from recallfront.kernels.grouped_attention.triton_forward import (
    SIZES,
    add_outer,
    inverse_length,
    load_state,
    load_tile,
    store_tile,
    taps_at,
    task,
    times_state,
)


@triton.jit
def through_length(dunit, x, scale):
    """The gradient of x from that of x / |x|; scale is 1 / |x|."""
    wide = x.to(tl.float32)
    square = tl.sum(wide * wide, 1)
    # not by way of `scale`: what its last bit is wrong by would stay along x
    along = tl.sum(wide * dunit, 1) / tl.where(square > 0.0, square, 1.0)
    return scale[:, None] * (dunit - wide * along[:, None])


@triton.jit
def times_unit(weights, x, scale, total):
    """total + weights @ unit, where unit is x * scale: the scale goes into the weights, x in as it is.

    That is a rounding less than scaling x; only float16 may be too narrow for such weights. There the largest is
    divided out of them, which a scaled loss may have made too large as well.
    """
    if x.dtype == tl.float16:
        unit = (x.to(tl.float32) * scale[:, None]).to(x.dtype)
        largest = tl.max(tl.max(tl.abs(weights), 1), 0)
        largest = tl.where(largest > 0.0, largest, 1.0)
        return total + tl.dot((weights * (1.0 / largest)).to(x.dtype), unit) * largest
    else:
        return tl.dot((weights * scale[None, :]).to(x.dtype), x, total, input_precision="ieee")


@triton.jit(do_not_specialize=SIZES)
def grouped_queries(
    q_ptr, k_ptr, v_ptr, do_ptr, dq_ptr, sums_ptr, scale_ptr, dscale_ptr,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, do_batch, do_time, do_head,
    time, heads, group, span, parts, stretch, stretches,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, PIECE: tl.constexpr,
    CARRIED: tl.constexpr, LONG: tl.constexpr, SINGLE: tl.constexpr, LEARNED: tl.constexpr,
):  # fmt: skip
    """dq (B, T, H, WIDTH) of one stretch of one head. Sizes as in `grouped_forward`; the keys come PIECE by PIECE.

    dscale (programs) where LEARNED: a sum over all products across groups, it shows every rounding that they
    share, so these are made finer.
    """
    line, number, begin, end, tiles = task(
        tl.program_id(0), parts, stretch, stretches, time, span, ROWS, LONG
    )
    batch, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    q_base = q_ptr + batch * q_batch + head * q_head
    k_base = k_ptr + batch * k_batch + head * k_head
    v_base = v_ptr + batch * v_batch + head * v_head
    do_base = do_ptr + batch * do_batch + head * do_head
    dq_base = dq_ptr + (batch * time * heads + head) * WIDTH
    scale = tl.load(scale_ptr)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, PIECE)[None, :]

    dscale = tl.zeros([ROWS], tl.float32)
    state = tl.zeros([COLUMNS, COLUMNS], tl.float32)
    if sums_ptr is not None:
        if number > 0:
            place = line.to(tl.int64) * (stretches - 1) + number - 1
            state = load_state(sums_ptr, place, 0, WIDTH, COLUMNS, COLUMNS)
    # the masks of several groups need the registers in which what is the same for all tiles would be kept
    for tile in tl.range(0, tiles, disable_licm=not (SINGLE or LONG)):
        first = begin + tile * span
        high = tl.minimum(first + span, end)
        q = load_tile(q_base, first, q_time, 0, high, 0, ROWS, COLUMNS, WIDTH)
        do = load_tile(do_base, first, do_time, 0, high, 0, ROWS, COLUMNS, WIDTH)
        q_scale = inverse_length(q)
        dunit = times_state(do, tl.trans(state), LEARNED)
        if LEARNED:
            dscale += tl.sum(q.to(tl.float32) * dunit, 1) * q_scale
        dunit *= scale
        for piece in tl.static_range(0, (ROWS + PIECE - 1) // PIECE):
            other = first + piece * PIECE
            k = load_tile(k_base, other, k_time, 0, high, 0, PIECE, COLUMNS, WIDTH)
            v = load_tile(v_base, other, v_time, 0, high, 0, PIECE, COLUMNS, WIDTH)
            k_scale = inverse_length(k)
            # first of all: the keys at unit length need not be kept then
            if CARRIED:
                state = add_outer(state, k, k_scale, v, LEARNED)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * q_scale[:, None] * k_scale[None, :]
            dweights = tl.dot(do, tl.trans(v), input_precision="ieee")
            dscores = 2.0 * tl.maximum(scores, 0.0) * dweights
            # positions, not places in the tile: what does not change with it would be kept in registers
            dscores = tl.where(other + column <= first + row, dscores, 0.0)
            if not (SINGLE or LONG):
                across = other + column < first + row // group * group
                dscores = tl.where(across, scale * dweights, dscores)
                if LEARNED:
                    dscale += tl.sum(tl.where(across, scores * dweights, 0.0), 1)
            dunit = times_unit(dscores, k, k_scale, dunit)
        if LONG:
            for before in range(number * stretch, first, PIECE):
                k = load_tile(k_base, before, k_time, 0, first, 0, PIECE, COLUMNS, WIDTH)
                v = load_tile(v_base, before, v_time, 0, first, 0, PIECE, COLUMNS, WIDTH)
                k_scale = inverse_length(k)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee") * q_scale[:, None] * k_scale[None, :]
                dweights = tl.dot(do, tl.trans(v), input_precision="ieee")
                dunit = times_unit(2.0 * tl.maximum(scores, 0.0) * dweights, k, k_scale, dunit)
        dq = through_length(dunit, q, q_scale)
        store_tile(dq_base, dq, first, heads * WIDTH, high, 0, ROWS, COLUMNS, WIDTH)
    if LEARNED:
        tl.store(dscale_ptr + tl.program_id(0), tl.sum(dscale, 0))


@triton.jit(do_not_specialize=SIZES)
def grouped_keys(
    q_ptr, k_ptr, v_ptr, do_ptr, dk_ptr, dv_ptr, sums_ptr, scale_ptr, taps_ptr,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, do_batch, do_time, do_head,
    time, heads, group, span, parts, stretch, stretches, reach,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, PIECE: tl.constexpr,
    CARRIED: tl.constexpr, LONG: tl.constexpr, SINGLE: tl.constexpr, CONVOLVED: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """dk where DK and dv where DV (B, T, H, WIDTH) of one stretch of one head, from its last tile to its first.

    Keys by queries. sums (B, H, stretches - 1, WIDTH, WIDTH): q^T do, q at unit length, of all stretches after each.
    CONVOLVED (of dv alone) needs two PIECES a tile, and no reach over one.
    """
    line, number, begin, end, tiles = task(
        tl.program_id(0), parts, stretch, stretches, time, span, ROWS, LONG
    )
    batch, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    q_base = q_ptr + batch * q_batch + head * q_head
    k_base = k_ptr + batch * k_batch + head * k_head
    v_base = v_ptr + batch * v_batch + head * v_head
    do_base = do_ptr + batch * do_batch + head * do_head
    out_base = (batch * time * heads + head) * WIDTH
    scale = tl.load(scale_ptr)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, PIECE)[None, :]
    if CONVOLVED:
        taps_base = taps_ptr + head * (reach + 1)
        near = taps_at(taps_base, column - row, reach, do_ptr)
        further = taps_at(taps_base, column + PIECE - row, reach, do_ptr)
        far = taps_at(taps_base, column + (ROWS + PIECE - 1) // PIECE * PIECE - row, reach, do_ptr)

    state = tl.zeros([COLUMNS, COLUMNS], tl.float32)
    if sums_ptr is not None:
        if number < stretches - 1:
            place = line.to(tl.int64) * (stretches - 1) + number
            state = load_state(sums_ptr, place, 0, WIDTH, COLUMNS, COLUMNS)
    # both at once need the registers in which what is the same for all tiles would be kept
    for step in tl.range(0, tiles, disable_licm=DK and DV):
        first = begin + (tiles - 1 - step) * span
        high = tl.minimum(first + span, end)
        k = load_tile(k_base, first, k_time, 0, high, 0, ROWS, COLUMNS, WIDTH)
        k_scale = inverse_length(k)
        if DV:
            dv = times_state(k, state, False) * (scale * k_scale)[:, None]
        if DK:
            v = load_tile(v_base, first, v_time, 0, high, 0, ROWS, COLUMNS, WIDTH)
            dunit = times_state(v, tl.trans(state), False) * scale
        # the convolution reaches over the group's end; nothing else does, for there q is zero
        do_high = high
        if CONVOLVED:
            do_high = time
        for piece in tl.static_range(0, (ROWS + PIECE - 1) // PIECE):
            other = first + piece * PIECE
            q = load_tile(q_base, other, q_time, 0, high, 0, PIECE, COLUMNS, WIDTH)
            do = load_tile(do_base, other, do_time, 0, do_high, 0, PIECE, COLUMNS, WIDTH)
            q_scale = inverse_length(q)
            if CARRIED:
                state = add_outer(state, q, q_scale, do, False)
            scores = tl.dot(k, tl.trans(q), input_precision="ieee") * k_scale[:, None] * q_scale[None, :]
            seen = first + row <= other + column
            local = tl.maximum(scores, 0.0)
            if DV:
                weights = tl.where(seen, local * local, 0.0)
                if not (SINGLE or LONG):
                    across = other + column >= first + (row // group + 1) * group
                    weights = tl.where(across, scale * scores, weights)
                dv = tl.dot(weights.to(do.dtype), do, dv, input_precision="ieee")
                if CONVOLVED:
                    dv = tl.dot(near if piece == 0 else further, do, dv, input_precision="ieee")
            if DK:
                dweights = tl.dot(v, tl.trans(do), input_precision="ieee")
                dscores = tl.where(seen, 2.0 * local * dweights, 0.0)
                if not (SINGLE or LONG):
                    across = other + column >= first + (row // group + 1) * group
                    dscores = tl.where(across, scale * dweights, dscores)
                dunit = times_unit(dscores, q, q_scale, dunit)
        if CONVOLVED:
            behind = first + (ROWS + PIECE - 1) // PIECE * PIECE
            do = load_tile(do_base, behind, do_time, 0, time, 0, PIECE, COLUMNS, WIDTH)
            dv = tl.dot(far, do, dv, input_precision="ieee")
        if LONG:
            for later in range(first + ROWS, end, PIECE):
                q = load_tile(q_base, later, q_time, 0, end, 0, PIECE, COLUMNS, WIDTH)
                do = load_tile(do_base, later, do_time, 0, end, 0, PIECE, COLUMNS, WIDTH)
                q_scale = inverse_length(q)
                scores = tl.dot(k, tl.trans(q), input_precision="ieee") * k_scale[:, None] * q_scale[None, :]
                local = tl.maximum(scores, 0.0)
                if DV:
                    dv = tl.dot((local * local).to(do.dtype), do, dv, input_precision="ieee")
                if DK:
                    dweights = tl.dot(v, tl.trans(do), input_precision="ieee")
                    dunit = times_unit(2.0 * local * dweights, q, q_scale, dunit)
        if DK:
            dk = through_length(dunit, k, k_scale)
            store_tile(dk_ptr + out_base, dk, first, heads * WIDTH, high, 0, ROWS, COLUMNS, WIDTH)
        if DV:
            store_tile(dv_ptr + out_base, dv, first, heads * WIDTH, high, 0, ROWS, COLUMNS, WIDTH)


@triton.jit(do_not_specialize=SIZES)
def grouped_taps(
    v_ptr, do_ptr, dtaps_ptr, v_batch, v_time, v_head, do_batch, do_time, do_head,
    time, heads, stretch, stretches, reach,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """dtaps (B, H, stretches, PIECE, reach + 1) of one stretch of one head, by place in a piece of the tokens.

    The gradient of a tap is the sum over a diagonal of do v^T. Its products are summed up piece by piece first: those
    of each piece of tokens with its own values, and with those of the piece before.
    """
    number = tl.program_id(0) % stretches
    line = tl.program_id(0) // stretches
    batch, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    v_base = v_ptr + batch * v_batch + head * v_head
    do_base = do_ptr + batch * do_batch + head * do_head
    row = tl.arange(0, ROWS)[:, None]
    own = tl.zeros([ROWS, PIECE], tl.float32)
    before = tl.zeros([ROWS, PIECE], tl.float32)
    begin = number * stretch
    for first in range(begin, tl.minimum(begin + stretch, time), ROWS):
        do = load_tile(do_base, first, do_time, 0, time, 0, ROWS, COLUMNS, WIDTH)
        for piece in tl.static_range(-1, ROWS // PIECE):
            v = load_tile(v_base, first + piece * PIECE, v_time, 0, time, 0, PIECE, COLUMNS, WIDTH)
            products = tl.dot(do, tl.trans(v), input_precision="ieee")
            own += tl.where(row // PIECE == piece, products, 0.0)
            before += tl.where(row // PIECE == piece + 1, products, 0.0)
    row, column = tl.arange(0, PIECE)[:, None], tl.arange(0, PIECE)[None, :]
    place = line.to(tl.int64) * stretches + number
    places = dtaps_ptr + (place * PIECE + row) * (reach + 1) + reach
    distance = row - column
    own = tl.sum(tl.reshape(own, [ROWS // PIECE, PIECE, PIECE]), 0)
    tl.store(places - distance, own, mask=(distance >= 0) & (distance <= reach))
    distance += PIECE
    before = tl.sum(tl.reshape(before, [ROWS // PIECE, PIECE, PIECE]), 0)
    tl.store(places - distance, before, mask=(distance > row) & (distance <= reach))
