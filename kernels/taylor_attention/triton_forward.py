"""Kernels of Taylor attention's forward pass.

The features of a vector x are its products x_i x_j, each pair once, x itself and 1: their sums over the text are
the state. They are laid out in lanes: lane p = shift * PERIOD + i stands for x_i x_j, j = i + shift around the
circle of the FEATURES entries, shift = 0 .. FEATURES / 2; then come x and, in a lane that no pair needs, 1. So
features are left * right, left = x repeated, right = x turned; both are made from a tile of x by a product with
a matrix of zeros and ones (exact, on tensor cores) and never leave the chip. What a pair weighs in the state
(scale^2, a half of it for i = j, ...) is multiplied into the state when it is written.
"""

import triton
import triton.language as tl


@triton.jit
def lanes(block, BLOCK: tl.constexpr, FEATURES: tl.constexpr, PERIOD: tl.constexpr):
    """i, j (-1: the lane stands for no pair), and whether it is an entry of x or the 1, of a block of lanes."""
    half: tl.constexpr = FEATURES // 2
    free: tl.constexpr = (half + 1) * PERIOD if FEATURES < PERIOD else half * PERIOD
    p = block * BLOCK + tl.arange(0, BLOCK)
    shift, i = p // PERIOD, p % PERIOD
    j = i + shift
    j = tl.where(j >= FEATURES, j - FEATURES, j)
    pair = (i < FEATURES) & (shift <= half)
    if FEATURES % 2 == 0:  # the last turn meets each pair twice
        pair &= (shift < half) | (i < half)
    return i, tl.where(pair, j, -1), (i < FEATURES) & (shift == half + 1), p == free + PERIOD - 1


@triton.jit
def pick(index, PADDED: tl.constexpr, KIND: tl.constexpr):
    """Rows of zeros and ones (lanes, PADDED) that pick entry `index` of x."""
    return tl.where(index[:, None] == tl.arange(0, PADDED)[None, :], 1.0, 0.0).to(KIND)


@triton.jit
def weigh(i, j, entry, one, scale):
    """Weight of each lane in q . state."""
    pairs = tl.where(j < 0, 0.0, tl.where(i == j, 0.5 * scale * scale, scale * scale))
    return tl.where(one, 1.0, tl.where(entry, scale, pairs))


@triton.jit
def public_row(i, j, entry, one, FEATURES: tl.constexpr):
    """Row of each lane in `taylor_features`' order."""
    low, high = tl.minimum(i, j), tl.maximum(i, j)
    pairs = 1 + FEATURES + low * FEATURES - low * (low - 1) // 2 + high - low
    return tl.where(one, 0, tl.where(entry, 1 + i, pairs))


@triton.jit
def multiply(left, right, entry, one, LAST: tl.constexpr):
    """Features from their factors; blocks of pairs alone need no cases."""
    if LAST:
        return tl.where(one, 1.0, left * tl.where(entry, 1.0, right))
    return left * right


@triton.jit
def tile_of(x, start, stride, rows, columns, mask):
    """Tokens start + rows of x, which may have more than 2^31 entries."""
    begin = (tl.full((), 0, tl.int64) + start) * stride
    return tl.load(x + begin + (rows[:, None] * stride + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def states_kernel(
    x, y, counts, padding, initial, sums, norms, final,
    scale, time, heads, span, chunks, tiles,
    x_batch, x_time, x_head, y_batch, y_time, y_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
    BACKWARD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state before each chunk of `span` tokens: sums of features of x with y, and of features alone.

    BACKWARD: the state after each chunk, from the last to the first. Each token counts as often as `counts`
    says, once by default. initial, final: the state before and after all, as the operator has it. A program has
    a block of features and some of the values of one head.
    """
    KIND: tl.constexpr = tl.bfloat16 if x.dtype.element_ty == tl.bfloat16 else tl.float32
    WIDTH: tl.constexpr = 1 + FEATURES + FEATURES * (FEATURES + 1) // 2
    # a head's blocks side by side: they read the same tokens
    head_index, block = (tl.program_id(0) // (ROWS // BLOCK)).to(tl.int64), tl.program_id(0) % (ROWS // BLOCK)
    alone = tl.program_id(1) == 0  # this program keeps the features alone, too
    batch, head = head_index // heads, head_index % heads
    x += batch * x_batch + head * x_head
    y += batch * y_batch + head * y_head
    c, f, lane = tl.arange(0, TILE), tl.arange(0, PADDED), tl.arange(0, BLOCK)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wide = (n < VALUES) | (VALUES % COLUMNS == 0)
    i, j, entry, one = lanes(block, BLOCK, FEATURES, PERIOD)
    weight = weigh(i, j, entry, one, scale)
    live = one | entry | (j >= 0)
    public = (head_index * WIDTH + public_row(i, j, entry, one, FEATURES)) * (VALUES + 1)
    root = tl.where(live, tl.sqrt(weight), 1.0)  # features are root * left * right
    total = tl.zeros([BLOCK, COLUMNS], tl.float32)
    norm = tl.zeros([BLOCK], tl.float32)
    if initial is not None:
        start_at = initial + public
        total += (
            tl.load(start_at[:, None] + n[None, :], mask=live[:, None] & wide[None, :], other=0.0)
            / root[:, None]
        )
        norm += tl.load(start_at + VALUES, mask=live, other=0.0) / root
    sums += head_index * chunks * (ROWS * VALUES) + block * (BLOCK * VALUES)
    norms += head_index * chunks * ROWS + block * BLOCK
    where = lane[:, None] * VALUES + n[None, :]
    for tile in range(tiles):
        start = tile * TILE
        if BACKWARD:
            start = (tl.cdiv(time, TILE) - 1 - tile) * TILE
        t = start + c
        valid = t < time
        x_tile = tile_of(x, start, x_time, c, f, valid[:, None] & (f < FEATURES)[None, :]).to(KIND)
        if padding is not None:
            valid &= tl.load(padding + batch * time + t, mask=valid, other=1) == 0
        y_tile = tile_of(y, start, y_time, c, n, valid[:, None] & wide[None, :]).to(KIND)
        count = valid.to(tl.float32)
        if counts is not None:
            count = tl.load(counts + (batch * time + t) * heads + head, mask=valid, other=0.0)
        boundary = (start + TILE) % span == 0 if BACKWARD else start % span == 0
        if boundary & ((tile > 0) | (initial is not None)):
            chunk = tl.full((), 0, tl.int64) + start // span
            value = (total * weight[:, None]).to(sums.dtype.element_ty)
            tl.store(sums + chunk * (ROWS * VALUES) + where, value, mask=wide[None, :])
            tl.store(norms + chunk * ROWS + lane, norm * weight, mask=alone)
        left = tl.dot(pick(i, PADDED, KIND), tl.trans(x_tile), input_precision=PRECISION)
        right = tl.dot(pick(j, PADDED, KIND), tl.trans(x_tile), input_precision=PRECISION)
        phi = multiply(left, right, entry[:, None], one[:, None], True)
        norm += tl.sum(phi * count[None, :], 1)
        total = tl.dot(phi.to(KIND), y_tile, total, input_precision=PRECISION)
    if final is None:
        if chunks > 1:  # the loop has ended at the last boundary
            chunk = tl.full((), 0, tl.int64)
            if not BACKWARD:
                chunk += chunks - 1
            value = (total * weight[:, None]).to(sums.dtype.element_ty)
            tl.store(sums + chunk * (ROWS * VALUES) + where, value, mask=wide[None, :])
            tl.store(norms + chunk * ROWS + lane, norm * weight, mask=alone)
    else:
        end_at = final + public
        tl.store(end_at[:, None] + n[None, :], total * root[:, None], mask=live[:, None] & wide[None, :])
        tl.store(end_at + VALUES, norm * root, mask=live & alone)


@triton.jit
def fused_kernel(
    q, k, v, table, o, denominators,
    scale, eps, time, heads,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The whole text of one head and some of its values, tile after tile, the state in registers all along.

    Reads and writes little more than inputs and outputs; its state must fit in registers, and the heads must
    fill the chip. table (1 + BLOCKS, BLOCK, PADDED): the rows that pick left factors (of every block) and right
    ones: loaded once, they stay in shared memory, from where tensor cores take them. Of the denominators' state,
    the sums of all features, only those of x and of x x^T are kept, as `moments`: rows of the last block, which
    has the lanes of x and 1.
    """
    KIND: tl.constexpr = tl.bfloat16 if q.dtype.element_ty == tl.bfloat16 else tl.float32
    head_index = tl.program_id(0)
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    o += (batch * time * heads + head) * VALUES
    denominators += batch * time * heads + head
    c, f, lane = tl.arange(0, TILE), tl.arange(0, PADDED), tl.arange(0, BLOCK)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    fits, wide = (f < FEATURES)[None, :], ((n < VALUES) | (VALUES % COLUMNS == 0))[None, :]
    picked = lane[:, None] * PADDED + f[None, :]
    pick_left = tl.load(table + picked)
    picks, totals = (), ()
    for block in tl.static_range(BLOCKS):
        picks += (tl.load(table + (block + 1) * (BLOCK * PADDED) + picked),)
        totals += (tl.zeros([BLOCK, COLUMNS], tl.float32),)
    moments = tl.zeros([BLOCK, PADDED], tl.float32)
    _, _, entry, one = lanes(BLOCKS - 1, BLOCK, FEATURES, PERIOD)
    twice = scale * scale
    pairs = tl.where(lane < PERIOD, 0.5 * twice, twice)  # the squares come first
    others = tl.where(one, 1.0, tl.where(entry, scale, pairs if BLOCKS == 1 else twice))
    of_moments = tl.where(one, scale, tl.where(entry, 0.5 * twice, 0.0))
    for begin in range(0, time, TILE):
        t = begin + c
        here = (t < time)[:, None]
        q_tile = tile_of(q, begin, q_time, c, f, here & fits).to(KIND)
        k_tile = tile_of(k, begin, k_time, c, f, here & fits).to(KIND)
        v_tile = tile_of(v, begin, v_time, c, n, here & wide).to(KIND)
        shifted = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale + 1
        weights = tl.where(t[:, None] >= t[None, :], 0.5 + 0.5 * shifted * shifted, 0.0)
        below = tl.sum(weights, 1)
        total = tl.dot(weights.to(KIND), v_tile, input_precision=PRECISION)
        left = tl.dot(q_tile, tl.trans(pick_left), input_precision=PRECISION)
        for block in tl.static_range(BLOCKS):
            right = tl.dot(q_tile, tl.trans(picks[block]), input_precision=PRECISION)
            phi = multiply(left, right, entry[None, :], one[None, :], block == BLOCKS - 1).to(KIND)
            if block == BLOCKS - 1:
                state = totals[block] * others[:, None]
                norms = tl.dot(phi, (moments * of_moments[:, None]).to(KIND), input_precision=PRECISION)
                below += tl.sum(norms * q_tile.to(tl.float32), 1)
            elif block == 0:
                state = totals[block] * pairs[:, None]
            else:
                state = totals[block] * twice
            total = tl.dot(phi, state.to(KIND), total, input_precision=PRECISION)
        left = tl.dot(pick_left, tl.trans(k_tile), input_precision=PRECISION)
        new_totals = ()
        for block in tl.static_range(BLOCKS):
            right = tl.dot(picks[block], tl.trans(k_tile), input_precision=PRECISION)
            phi = multiply(left, right, entry[:, None], one[:, None], block == BLOCKS - 1).to(KIND)
            new_totals += (tl.dot(phi, v_tile, totals[block], input_precision=PRECISION),)
            if block == BLOCKS - 1:
                moments = tl.dot(phi, k_tile, moments, input_precision=PRECISION)
        totals = new_totals
        below += begin + eps
        at = (tl.full((), 0, tl.int64) + begin) * heads + c * heads
        tl.store(
            o + (at[:, None] * VALUES + n[None, :]), (total / below[:, None]).to(o.dtype.element_ty),
            mask=here & wide,
        )  # fmt: skip
        tl.store(denominators + at, below, mask=(t < time) & (tl.program_id(1) == 0))


@triton.jit(do_not_specialize=["plain"])
def wide_kernel(
    q, k, v, o, denominators,
    scale, eps, time, heads, plain,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`fused_kernel` for more than two blocks of features: what differs saves registers, at the cost of moves.

    The blocks before the last, `plain` = BLOCKS - 1 of them, take turns at the head of a queue in a loop that is
    not unrolled (its end is no constant for that reason): unrolled, the compiler begins on all of them at once.
    Rows that pick are made where they are needed, and nothing is moved out of the loop over the text.
    """
    KIND: tl.constexpr = tl.bfloat16 if q.dtype.element_ty == tl.bfloat16 else tl.float32
    head_index = tl.program_id(0)
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    o += (batch * time * heads + head) * VALUES
    denominators += batch * time * heads + head
    c, f, lane = tl.arange(0, TILE), tl.arange(0, PADDED), tl.arange(0, BLOCK)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    fits, wide = (f < FEATURES)[None, :], ((n < VALUES) | (VALUES % COLUMNS == 0))[None, :]
    pick_left = pick(lane % PERIOD, PADDED, KIND)
    totals = ()
    for _ in tl.static_range(BLOCKS - 1):
        totals += (tl.zeros([BLOCK, COLUMNS], tl.float32),)
    last = tl.zeros([BLOCK, COLUMNS], tl.float32)
    moments = tl.zeros([BLOCK, PADDED], tl.float32)
    _, last_j, entry, one = lanes(BLOCKS - 1, BLOCK, FEATURES, PERIOD)
    twice = scale * scale
    others = tl.where(one, 1.0, tl.where(entry, scale, twice))
    of_moments = tl.where(one, scale, tl.where(entry, 0.5 * twice, 0.0))
    for begin in tl.range(0, time, TILE, disable_licm=True):
        t = begin + c
        here = (t < time)[:, None]
        q_tile = tile_of(q, begin, q_time, c, f, here & fits).to(KIND)
        k_tile = tile_of(k, begin, k_time, c, f, here & fits).to(KIND)
        v_tile = tile_of(v, begin, v_time, c, n, here & wide).to(KIND)
        shifted = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale + 1
        weights = tl.where(t[:, None] >= t[None, :], 0.5 + 0.5 * shifted * shifted, 0.0)
        below = tl.sum(weights, 1)
        total = tl.dot(weights.to(KIND), v_tile, input_precision=PRECISION)
        left = tl.dot(q_tile, tl.trans(pick_left), input_precision=PRECISION)
        k_left = tl.dot(pick_left, tl.trans(k_tile), input_precision=PRECISION)
        for block in range(plain):
            _i, j, _entry, _one = lanes(block, BLOCK, FEATURES, PERIOD)
            turned = pick(j, PADDED, KIND)
            # the squares come first
            state = totals[0] * tl.where(block * BLOCK + lane < PERIOD, 0.5 * twice, twice)[:, None]  # type: ignore[misc]
            right = tl.dot(q_tile, tl.trans(turned), input_precision=PRECISION)
            total = tl.dot((left * right).to(KIND), state.to(KIND), total, input_precision=PRECISION)
            right = tl.dot(turned, tl.trans(k_tile), input_precision=PRECISION)
            phi = (k_left * right).to(KIND)
            totals = totals[1:] + (tl.dot(phi, v_tile, totals[0], input_precision=PRECISION),)  # type: ignore[misc]
        turned = pick(last_j, PADDED, KIND)
        right = tl.dot(q_tile, tl.trans(turned), input_precision=PRECISION)
        phi = multiply(left, right, entry[None, :], one[None, :], True).to(KIND)
        norms = tl.dot(phi, (moments * of_moments[:, None]).to(KIND), input_precision=PRECISION)
        below += tl.sum(norms * q_tile.to(tl.float32), 1) + begin + eps
        total = tl.dot(phi, (last * others[:, None]).to(KIND), total, input_precision=PRECISION)
        right = tl.dot(turned, tl.trans(k_tile), input_precision=PRECISION)
        phi = multiply(k_left, right, entry[:, None], one[:, None], True).to(KIND)
        last = tl.dot(phi, v_tile, last, input_precision=PRECISION)
        moments = tl.dot(phi, k_tile, moments, input_precision=PRECISION)
        at = (tl.full((), 0, tl.int64) + begin) * heads + c * heads
        tl.store(
            o + (at[:, None] * VALUES + n[None, :]), (total / below[:, None]).to(o.dtype.element_ty),
            mask=here & wide,
        )  # fmt: skip
        tl.store(denominators + at, below, mask=(t < time) & (tl.program_id(1) == 0))


@triton.jit
def outputs_kernel(
    q, k, v, padding, sums, norms, o, denominators,
    scale, eps, time, heads, span, chunks,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, PLAIN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr, FIRST_STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of outputs of one head: its chunk's own keys one by one, all before through the state.

    The first PLAIN of the BLOCKS of features are pairs alone. FIRST_STATE: there is a state before chunk 0.
    """
    KIND: tl.constexpr = tl.bfloat16 if q.dtype.element_ty == tl.bfloat16 else tl.float32
    per_head = tl.cdiv(time, TILE)
    head_index = tl.program_id(0) // per_head
    begin = (tl.program_id(0) % per_head) * TILE
    batch, head = (head_index // heads).to(tl.int64), (head_index % heads).to(tl.int64)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    c, inner, f = tl.arange(0, TILE), tl.arange(0, INNER), tl.arange(0, PADDED)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    t = begin + c
    fits, wide = (f < FEATURES)[None, :], (n < VALUES)[None, :]
    q_tile = tile_of(q, begin, q_time, c, f, (t < time)[:, None] & fits).to(KIND)
    total = tl.zeros([TILE, COLUMNS], tl.float32)
    below = tl.zeros([TILE], tl.float32)
    chunk = begin // span
    for start in range(chunk * span, tl.minimum(begin + TILE, time), INNER):
        s = start + inner
        valid = s < time
        k_tile = tile_of(k, start, k_time, inner, f, valid[:, None] & fits).to(KIND)
        v_tile = tile_of(v, start, v_time, inner, n, valid[:, None] & wide).to(KIND)
        if padding is not None:
            valid &= tl.load(padding + batch * time + s, mask=valid, other=1) == 0
        shifted = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale + 1
        seen = (t[:, None] >= s[None, :]) & valid[None, :]
        weights = tl.where(seen, 0.5 + 0.5 * shifted * shifted, 0.0)  # 1 + s + s^2 / 2
        below += tl.sum(weights, 1)
        total = tl.dot(weights.to(KIND), v_tile, total, input_precision=PRECISION)
    if (chunk > 0) | FIRST_STATE:
        place = head_index.to(tl.int64) * chunks + chunk
        lane = tl.arange(0, BLOCK)
        sums += place * (ROWS * VALUES)
        norms += place * ROWS
        left = tl.dot(q_tile, tl.trans(pick(lane % PERIOD, PADDED, KIND)), input_precision=PRECISION)
        for block in range(PLAIN):
            total, below = read_out(
                q_tile, left, total, below, sums, norms, block, n,
                FEATURES, VALUES, PADDED, PERIOD, BLOCK, False, PRECISION,
            )  # fmt: skip
        for block in tl.static_range(PLAIN, BLOCKS):
            total, below = read_out(
                q_tile, left, total, below, sums, norms, block, n,
                FEATURES, VALUES, PADDED, PERIOD, BLOCK, True, PRECISION,
            )  # fmt: skip
    below += eps
    row = (batch * time + t) * heads + head
    tl.store(denominators + row, below, mask=(t < time) & (tl.program_id(1) == 0))
    tl.store(
        o + row[:, None] * VALUES + n[None, :], (total / below[:, None]).to(o.dtype.element_ty),
        mask=(t < time)[:, None] & wide,
    )  # fmt: skip


@triton.jit
def read_out(
    q_tile, left, total, below, sums, norms, block, n,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, PERIOD: tl.constexpr,
    BLOCK: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what one block of features reads from the state."""
    i, j, entry, one = lanes(block, BLOCK, FEATURES, PERIOD)
    if BLOCK < PERIOD:
        left = tl.dot(q_tile, tl.trans(pick(i, PADDED, q_tile.dtype)), input_precision=PRECISION)
    right = tl.dot(q_tile, tl.trans(pick(j, PADDED, q_tile.dtype)), input_precision=PRECISION)
    phi = multiply(left, right, entry[None, :], one[None, :], LAST)
    row = block * BLOCK + tl.arange(0, BLOCK)
    state = tl.load(sums + row[:, None] * VALUES + n[None, :], mask=(n < VALUES)[None, :], other=0.0)
    norm = tl.load(norms + row)
    below += tl.sum(phi * norm[None, :], 1)
    return tl.dot(phi.to(q_tile.dtype), state.to(q_tile.dtype), total, input_precision=PRECISION), below
