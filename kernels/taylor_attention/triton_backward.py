"""Kernels of Taylor attention's backward pass, from the chunks' states before (queries) and after (keys).

With o = n / d, n = sum w v, d = sum w + eps and g the gradient of o: that of n is g / d, that of d is
-(g . o) / d (`slopes` below), and a weight w = 1 + s + s^2 / 2 gets (g / d) . v + slope, its score s (1 + s)
times as much.

`pull_kernel` goes through each text in one program, the state in registers: two passes that move less than twice the
inputs and outputs. The others work on all tiles at once, with states in memory.
"""

import triton
import triton.language as tl

from recallfront.kernels.taylor_attention.triton_forward import lanes, multiply, pick, tile_of, weigh


@triton.jit
def queries_kernel(
    q, k, v, o, gradient, denominators, sums, norms, scaled, slopes, q_gradient,
    scale, time, heads, span, chunks, tokens,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, g_batch, g_time, g_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, PLAIN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of queries; writes g / d (`scaled`) and the slopes for the keys' kernels."""
    KIND: tl.constexpr = tl.bfloat16 if q.dtype.element_ty == tl.bfloat16 else tl.float32
    per_head = tl.cdiv(time, TILE)
    head_index = tl.program_id(0) // per_head
    begin = (tl.program_id(0) % per_head) * TILE
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    gradient += batch * g_batch + head * g_head
    c, inner, f = tl.arange(0, TILE), tl.arange(0, INNER), tl.arange(0, PADDED)
    part = tl.program_id(1)
    n = part * COLUMNS + tl.arange(0, COLUMNS)
    t = begin + c
    here, fits, wide = (t < time)[:, None], (f < FEATURES)[None, :], (n < VALUES)[None, :]
    row = (batch * time + t) * heads + head
    below = tl.load(denominators + row, mask=t < time, other=1.0)
    o_tile = tl.load(o + row[:, None] * VALUES + n[None, :], mask=here & wide, other=0.0).to(tl.float32)
    g_tile = tile_of(gradient, begin, g_time, c, n, here & wide).to(tl.float32) / below[:, None]
    slope = -tl.sum(g_tile * o_tile, 1)
    parts = part.to(tl.int64) * tokens
    tl.store(slopes + parts + row, slope, mask=t < time)
    g_tile = g_tile.to(KIND)
    tl.store(scaled + row[:, None] * VALUES + n[None, :], g_tile, mask=here & wide)
    q_tile = tile_of(q, begin, q_time, c, f, here & fits).to(KIND)
    total = tl.zeros([TILE, PADDED], tl.float32)
    chunk = begin // span
    for start in range(chunk * span, tl.minimum(begin + TILE, time), INNER):
        s = start + inner
        valid = (s < time)[:, None]
        k_tile = tile_of(k, start, k_time, inner, f, valid & fits).to(KIND)
        v_tile = tile_of(v, start, v_time, inner, n, valid & wide).to(KIND)
        shifted = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale + 1
        weights = tl.dot(g_tile, tl.trans(v_tile), input_precision=PRECISION) + slope[:, None]
        scores = tl.where(t[:, None] >= s[None, :], weights * shifted * scale, 0.0)
        total = tl.dot(scores.to(KIND), k_tile, total, input_precision=PRECISION)
    if chunk > 0:
        place = head_index.to(tl.int64) * chunks + chunk
        sums += place * (ROWS * VALUES)
        norms += place * ROWS
        picked = pick(tl.arange(0, BLOCK) % PERIOD, PADDED, KIND)
        left = tl.dot(q_tile, tl.trans(picked), input_precision=PRECISION)
        for block in range(PLAIN):
            total = pull_back(
                q_tile, g_tile, picked, left, slope, total, sums, norms, block, n,
                FEATURES, VALUES, PADDED, PERIOD, BLOCK, False, PRECISION,
            )  # fmt: skip
        for block in tl.static_range(PLAIN, BLOCKS):
            total = pull_back(
                q_tile, g_tile, picked, left, slope, total, sums, norms, block, n,
                FEATURES, VALUES, PADDED, PERIOD, BLOCK, True, PRECISION,
            )  # fmt: skip
    tl.store(
        q_gradient + (parts + row)[:, None] * FEATURES + f[None, :], total.to(q_gradient.dtype.element_ty),
        mask=here & fits,
    )  # fmt: skip


@triton.jit
def pull_back(
    x_tile, y_tile, picked, left, slope, total, sums, norms, block, n,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the gradient of x that comes through one block of its features: theirs is y . state + slope norm."""
    i, j, entry, one = lanes(block, BLOCK, FEATURES, PERIOD)
    if BLOCK < PERIOD:
        picked = pick(i, PADDED, x_tile.dtype)
        left = tl.dot(x_tile, tl.trans(picked), input_precision=PRECISION)
    turned = pick(j, PADDED, x_tile.dtype)
    right = tl.dot(x_tile, tl.trans(turned), input_precision=PRECISION)
    row = block * BLOCK + tl.arange(0, BLOCK)
    state = tl.load(sums + row[:, None] * VALUES + n[None, :], mask=(n < VALUES)[None, :], other=0.0)
    norm = tl.load(norms + row)
    features = tl.dot(y_tile, tl.trans(state.to(x_tile.dtype)), input_precision=PRECISION)
    features += slope[:, None] * norm[None, :]
    if LAST:
        features = tl.where(one[None, :], 0.0, features)
        right = tl.where(entry[None, :], 1.0, right)
    total = tl.dot((features * right).to(x_tile.dtype), picked, total, input_precision=PRECISION)
    return tl.dot((features * left).to(x_tile.dtype), turned, total, input_precision=PRECISION)


@triton.jit
def keys_kernel(
    q, k, v, scaled, slopes, sums, norms, k_gradient, v_gradient,
    scale, time, heads, span, chunks, tokens,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, PLAIN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values."""
    KIND: tl.constexpr = tl.bfloat16 if q.dtype.element_ty == tl.bfloat16 else tl.float32
    per_head = tl.cdiv(time, TILE)
    head_index = tl.program_id(0) // per_head
    begin = (tl.program_id(0) % per_head) * TILE
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    c, inner, f = tl.arange(0, TILE), tl.arange(0, INNER), tl.arange(0, PADDED)
    part = tl.program_id(1)
    n = part * COLUMNS + tl.arange(0, COLUMNS)
    t = begin + c
    here, fits, wide = (t < time)[:, None], (f < FEATURES)[None, :], (n < VALUES)[None, :]
    k_tile = tile_of(k, begin, k_time, c, f, here & fits).to(KIND)
    v_tile = tile_of(v, begin, v_time, c, n, here & wide).to(KIND)
    k_total = tl.zeros([TILE, PADDED], tl.float32)
    v_total = tl.zeros([TILE, COLUMNS], tl.float32)
    chunk = begin // span
    for start in range(begin, tl.minimum((chunk + 1) * span, time), INNER):
        s = start + inner
        valid = (s < time)[:, None]
        q_tile = tile_of(q, start, q_time, inner, f, valid & fits).to(KIND)
        row = (batch * time + s) * heads + head
        g_tile = tl.load(scaled + row[:, None] * VALUES + n[None, :], mask=valid & wide, other=0.0)
        slope = tl.load(slopes + row, mask=(s < time) & (part == 0), other=0.0)
        seen = t[:, None] <= s[None, :]
        shifted = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * scale + 1
        weights = tl.where(seen, 0.5 + 0.5 * shifted * shifted, 0.0)
        v_total = tl.dot(weights.to(KIND), g_tile, v_total, input_precision=PRECISION)
        weights = tl.dot(v_tile, tl.trans(g_tile), input_precision=PRECISION) + slope[None, :]
        scores = tl.where(seen, weights * shifted * scale, 0.0)
        k_total = tl.dot(scores.to(KIND), q_tile, k_total, input_precision=PRECISION)
    if chunk < chunks - 1:
        place = head_index.to(tl.int64) * chunks + chunk
        sums += place * (ROWS * VALUES)
        norms += place * ROWS
        picked = pick(tl.arange(0, BLOCK) % PERIOD, PADDED, KIND)
        left = tl.dot(k_tile, tl.trans(picked), input_precision=PRECISION)
        for block in range(PLAIN):
            k_total, v_total = pull_back_both(
                k_tile, v_tile, picked, left, k_total, v_total, sums, norms, block, n, part,
                FEATURES, VALUES, PADDED, PERIOD, BLOCK, False, PRECISION,
            )  # fmt: skip
        for block in tl.static_range(PLAIN, BLOCKS):
            k_total, v_total = pull_back_both(
                k_tile, v_tile, picked, left, k_total, v_total, sums, norms, block, n, part,
                FEATURES, VALUES, PADDED, PERIOD, BLOCK, True, PRECISION,
            )  # fmt: skip
    row = (batch * time + t) * heads + head
    parts = part.to(tl.int64) * tokens
    tl.store(
        k_gradient + (parts + row)[:, None] * FEATURES + f[None, :], k_total.to(k_gradient.dtype.element_ty),
        mask=here & fits,
    )  # fmt: skip
    tl.store(
        v_gradient + row[:, None] * VALUES + n[None, :], v_total.to(v_gradient.dtype.element_ty), mask=here & wide
    )  # fmt: skip


@triton.jit
def pull_back_both(
    k_tile, v_tile, picked, left, k_total, v_total, sums, norms, block, n, part,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the gradients of keys and values that come through one block of the keys' features."""
    i, j, entry, one = lanes(block, BLOCK, FEATURES, PERIOD)
    if BLOCK < PERIOD:
        picked = pick(i, PADDED, k_tile.dtype)
        left = tl.dot(k_tile, tl.trans(picked), input_precision=PRECISION)
    turned = pick(j, PADDED, k_tile.dtype)
    right = tl.dot(k_tile, tl.trans(turned), input_precision=PRECISION)
    row = block * BLOCK + tl.arange(0, BLOCK)
    state = tl.load(sums + row[:, None] * VALUES + n[None, :], mask=(n < VALUES)[None, :], other=0.0)
    state = state.to(k_tile.dtype)
    phi = multiply(left, right, entry[None, :], one[None, :], LAST)
    v_total = tl.dot(phi.to(k_tile.dtype), state, v_total, input_precision=PRECISION)
    norm = tl.load(norms + row, mask=(row >= 0) & (part == 0), other=0.0)
    features = tl.dot(v_tile, tl.trans(state), input_precision=PRECISION) + norm[None, :]
    if LAST:
        features = tl.where(one[None, :], 0.0, features)
        right = tl.where(entry[None, :], 1.0, right)
    k_total = tl.dot((features * right).to(k_tile.dtype), picked, k_total, input_precision=PRECISION)
    return tl.dot((features * left).to(k_tile.dtype), turned, k_total, input_precision=PRECISION), v_total


@triton.jit(do_not_specialize=["blocks", "part"])
def pull_kernel(
    q, k, v, o, gradient, denominators, slopes, x_gradient, v_gradient,
    scale, time, heads, blocks, part,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, g_batch, g_time, g_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
    KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries of one head, first token to last, or (KEYS) of its keys and values, last to first.

    x and y are the token's own vectors, u and w those whose features and values are summed up: q, g / d, k, v for
    the queries, k, v, q, g / d for the keys, whose values' gradient comes from the same sums. One launch for each
    `part` of the values, one after another: all but the first add to the slopes and to the gradient of x. Blocks of
    features take turns as in `wide_kernel`, which leaves registers for nothing else: whatever can be is made anew
    for every tile.
    """
    KIND: tl.constexpr = tl.bfloat16 if q.dtype.element_ty == tl.bfloat16 else tl.float32
    totals = ()
    for _ in tl.static_range(BLOCKS):
        totals += (tl.zeros([BLOCK, COLUMNS], tl.float32),)
    # of the features alone, for the slopes: sums of u and of u u^T
    sums, squares = tl.zeros([PADDED], tl.float32), tl.zeros([PADDED, PADDED], tl.float32)
    tiles = tl.cdiv(time, TILE)
    for tile in tl.range(0, tiles, disable_licm=True):
        head_index = tl.program_id(0)
        batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
        c, f = tl.arange(0, TILE), tl.arange(0, PADDED)
        n = part * COLUMNS + tl.arange(0, COLUMNS)
        fits, wide = (f < FEATURES)[None, :], ((n < VALUES) | (VALUES % COLUMNS == 0))[None, :]
        begin = ((tiles - 1 - tile) if KEYS else tile) * TILE
        t = begin + c
        valid = t < time
        here = valid[:, None]
        at = batch * time * heads + head + (tl.full((), 0, tl.int64) + begin) * heads + c * heads
        q_tile = tile_of(q + batch * q_batch + head * q_head, begin, q_time, c, f, here & fits).to(KIND)
        k_tile = tile_of(k + batch * k_batch + head * k_head, begin, k_time, c, f, here & fits).to(KIND)
        v_tile = tile_of(v + batch * v_batch + head * v_head, begin, v_time, c, n, here & wide).to(KIND)
        below = tl.load(denominators + at, mask=valid, other=1.0)
        g_tile = tile_of(gradient + batch * g_batch + head * g_head, begin, g_time, c, n, here & wide)
        g_tile = g_tile.to(tl.float32) / below[:, None]
        if KEYS:
            slope = tl.load(slopes + at, mask=valid & (part == 0), other=0.0)
            x_tile, y_tile, u_tile, w_tile = k_tile, v_tile, q_tile, g_tile.to(KIND)
            counted = u_tile.to(tl.float32) * slope[:, None]
            weights = tl.dot(y_tile, tl.trans(w_tile), input_precision=PRECISION) + slope[None, :]
            seen = t[:, None] <= t[None, :]
        else:
            o_tile = tl.load(o + at[:, None] * VALUES + n[None, :], mask=here & wide, other=0.0)
            slope = -tl.sum(g_tile * o_tile.to(tl.float32), 1)
            others = tl.load(slopes + at, mask=valid & (part > 0), other=0.0)
            tl.store(slopes + at, slope + others, mask=valid)
            x_tile, y_tile, u_tile, w_tile = q_tile, g_tile.to(KIND), k_tile, v_tile
            counted = u_tile.to(tl.float32)
            weights = tl.dot(y_tile, tl.trans(w_tile), input_precision=PRECISION) + slope[:, None]
            seen = t[:, None] >= t[None, :]
        shifted = tl.dot(x_tile, tl.trans(u_tile), input_precision=PRECISION) * scale + 1
        scores = tl.where(seen, weights * shifted * scale, 0.0)
        square = (squares * (scale * scale)).to(KIND)
        total = tl.dot(x_tile, square, input_precision=PRECISION) + (sums * scale)[None, :]
        if not KEYS:
            total *= slope[:, None]
        total = tl.dot(scores.to(KIND), u_tile, total, input_precision=PRECISION)
        if KEYS:
            weights = tl.where(seen, 0.5 + 0.5 * shifted * shifted, 0.0)
            v_total = tl.dot(weights.to(KIND), w_tile, input_precision=PRECISION)
        squares = tl.dot(tl.trans(u_tile), counted.to(KIND), squares, input_precision=PRECISION)
        sums += tl.sum(counted, 0)
        picked = pick(tl.arange(0, BLOCK) % PERIOD, PADDED, KIND)
        left = tl.dot(x_tile, tl.trans(picked), input_precision=PRECISION)
        for block in tl.range(0, blocks, disable_licm=True):
            i, j, entry, one = lanes(block, BLOCK, FEATURES, PERIOD)
            turned = pick(j, PADDED, KIND)
            right = tl.dot(x_tile, tl.trans(turned), input_precision=PRECISION)
            right = tl.where(entry[None, :], 1.0, right)
            state = (totals[0] * weigh(i, j, entry, one, scale)[:, None]).to(KIND)  # type: ignore[misc]
            totals = totals[1:] + (totals[0],)  # type: ignore[misc]
            features = tl.dot(y_tile, tl.trans(state), input_precision=PRECISION)
            features = tl.where(one[None, :], 0.0, features)
            total = tl.dot((features * right).to(KIND), picked, total, input_precision=PRECISION)
            total = tl.dot((features * left).to(KIND), turned, total, input_precision=PRECISION)
            if KEYS:
                phi = tl.where(one[None, :], 1.0, left * right).to(KIND)
                v_total = tl.dot(phi, state, v_total, input_precision=PRECISION)
        left = tl.dot(picked, tl.trans(u_tile), input_precision=PRECISION)
        for block in tl.range(0, blocks, disable_licm=True):
            _i, j, entry, one = lanes(block, BLOCK, FEATURES, PERIOD)
            right = tl.dot(pick(j, PADDED, KIND), tl.trans(u_tile), input_precision=PRECISION)
            phi = multiply(left, right, entry[:, None], one[:, None], True).to(KIND)
            totals = totals[1:] + (tl.dot(phi, w_tile, totals[0], input_precision=PRECISION),)  # type: ignore[misc]
        places = x_gradient + at[:, None] * FEATURES + f[None, :]
        total += tl.load(places, mask=here & fits & (part > 0), other=0.0).to(tl.float32)
        tl.store(places, total.to(x_gradient.dtype.element_ty), mask=here & fits)
        if KEYS:
            tl.store(
                v_gradient + at[:, None] * VALUES + n[None, :], v_total.to(v_gradient.dtype.element_ty),
                mask=here & wide,
            )  # fmt: skip
