"""Grouped attention, forward: one pass over q, k and v that carries the sum of all groups before.

A program walks its stretch of one head in tiles of ROWS tokens. Where groups are short, a tile holds as many whole
groups as fit (`span` tokens). A longer group is a stretch, and each of its tiles (`parts` of them) a program: the sum
before it is the same for all. q and k go into products as they are and are brought to unit length after, in float32:
that costs no rounding.
"""

import triton
import triton.language as tl

# numbers that no address needs to know anything of: a kernel compiled anew for each kind of them gains nothing
SIZES = ["time", "heads", "group", "span", "parts", "stretch", "stretches", "skipped", "reach"]


@triton.jit
def load_tile(
    base, first, step, low, high, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Tokens `first`, ... as (ROWS, COLUMNS): zeros before token `low`, from token `high` on, and right of WIDTH.

    `base` points at the block of columns whose number is `block`.
    """
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    # anew for every tile: offsets inside a tile, the same for all, would be kept in registers
    places = base + (tl.cast(first, tl.int64) + rows)[:, None] * step + columns[None, :]
    mask = ((first + rows) >= low) & ((first + rows) < high)
    if WIDTH % COLUMNS != 0:
        return tl.load(places, mask=mask[:, None] & (block * COLUMNS + columns < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(places, mask=mask[:, None], other=0.0)


@triton.jit
def store_tile(
    base, values, first, step, high, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """The counterpart of `load_tile`, in the type of the memory."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    places = base + (tl.cast(first, tl.int64) + rows)[:, None] * step + columns[None, :]
    mask = ((first + rows) < high)[:, None] & (block * COLUMNS + columns < WIDTH)[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def task(program, parts, stretch, stretches, time, span, ROWS: tl.constexpr, LONG: tl.constexpr):
    """Line (batch and head) and stretch of a program, its first token, the stretch's last, the number of its tiles."""
    part = 0
    if LONG:  # the longest first
        part = parts - 1 - program % parts
        program = program // parts
    number, line = program % stretches, program // stretches
    begin = number * stretch + part * ROWS
    end = tl.minimum(number * stretch + stretch, time)
    tiles = tl.cdiv(tl.maximum(end - begin, 0), span)
    if LONG:
        tiles = tl.minimum(tiles, 1)
    return line, number, begin, end, tiles


@triton.jit
def inverse_length(x):
    """1 / |x| of each row in float32, and 0 for a zero row, which stays zero."""
    wide = x.to(tl.float32)
    square = tl.sum(wide * wide, 1)
    rough = tl.rsqrt(tl.where(square > 0.0, square, 1.0))
    # a Newton step for the last bits; a square root would branch, and cut the loop around it in pieces
    return tl.where(square > 0.0, rough + 0.5 * rough * (1.0 - square * rough * rough), 0.0)


@triton.jit
def times_state(x, state, FINE: tl.constexpr):
    """x (ROWS, K) @ state (K, N), the state in x's type; scaled where it may be too large for float16.

    FINE: what that type cuts off is multiplied too.
    """
    largest = 1.0
    if x.dtype == tl.float16:
        largest = tl.max(tl.max(tl.abs(state), 1), 0)
        largest = tl.where(largest > 0.0, largest, 1.0)
        state = state * (1.0 / largest)
    out = tl.dot(x, state.to(x.dtype), input_precision="ieee")
    if FINE and x.dtype != tl.float32:
        out = tl.dot(x, (state - state.to(x.dtype).to(tl.float32)).to(x.dtype), out)
    if x.dtype == tl.float16:
        out = out * largest
    return out


@triton.jit
def add_outer(state, x, scale, values, FINE: tl.constexpr):
    """state + unit^T @ values, where unit is x * scale in x's type; FINE: and what that type cuts off."""
    unit = x.to(tl.float32) * scale[:, None]
    state = tl.dot(tl.trans(unit.to(x.dtype)), values, state, input_precision="ieee")
    if FINE and x.dtype != tl.float32:
        low = (unit - unit.to(x.dtype).to(tl.float32)).to(x.dtype)
        state = tl.dot(tl.trans(low), values, state)
    return state


@triton.jit
def taps_at(taps_base, distance, reach, like_ptr):
    """The convolution's weights for values `distance` tokens back, 0 outside 0 ... reach, in like_ptr's type."""
    inside = (distance >= 0) & (distance <= reach)
    return tl.load(taps_base + reach - distance, mask=inside, other=0.0).to(like_ptr.dtype.element_ty)


@triton.jit
def _state_places(ptr, place, block, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, VALUES: tl.constexpr):
    rows, columns = tl.arange(0, COLUMNS), block * VALUES + tl.arange(0, VALUES)
    places = ptr + place * (WIDTH * WIDTH) + rows[:, None] * WIDTH + columns[None, :]
    return places, (rows < WIDTH)[:, None] & (columns < WIDTH)[None, :]


@triton.jit
def load_state(ptr, place, block, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, VALUES: tl.constexpr):
    places, mask = _state_places(ptr, place, block, WIDTH, COLUMNS, VALUES)
    return tl.load(places, mask=mask, other=0.0)


@triton.jit
def store_state(ptr, state, place, block, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, VALUES: tl.constexpr):
    places, mask = _state_places(ptr, place, block, WIDTH, COLUMNS, VALUES)
    tl.store(places, state, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def grouped_sums(
    k_ptr, v_ptr, sums_ptr, k_batch, k_time, k_head, v_batch, v_time, v_head, time, heads, stretch, stretches, skipped,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr, FINE: tl.constexpr,
):  # fmt: skip
    """sums (B, H, stretches, WIDTH, WIDTH): k^T v, k at unit length, over each stretch of tokens but the first
    `skipped`. One block of VALUES columns a program.
    """
    blocks: tl.constexpr = (WIDTH + VALUES - 1) // VALUES
    block = tl.program_id(0) % blocks
    number = tl.program_id(0) // blocks % stretches
    line = tl.program_id(0) // blocks // stretches
    batch, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    k_base = k_ptr + batch * k_batch + head * k_head
    v_base = v_ptr + batch * v_batch + head * v_head + block * VALUES
    low = (number + skipped) * stretch
    high = tl.minimum(low + stretch, time)
    state = tl.zeros([COLUMNS, VALUES], tl.float32)
    for first in range(low, high, ROWS):
        k = load_tile(k_base, first, k_time, 0, high, 0, ROWS, COLUMNS, WIDTH)
        v = load_tile(v_base, first, v_time, 0, high, block, ROWS, VALUES, WIDTH)
        state = add_outer(state, k, inverse_length(k), v, FINE)
    store_state(sums_ptr, state, line.to(tl.int64) * stretches + number, block, WIDTH, COLUMNS, VALUES)


@triton.jit(do_not_specialize=SIZES)
def grouped_accumulate(
    sums_ptr, stretches, WIDTH: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, BACKWARD: tl.constexpr
):  # fmt: skip
    """Every stretch's sums become those of all stretches up to it; from it on where BACKWARD. In place.

    STEPS stretches at once: a load waits for the store before it.
    """
    blocks: tl.constexpr = (WIDTH * WIDTH + BLOCK - 1) // BLOCK
    line, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    inside = block * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, stretches, STEPS):
        numbers = first + tl.arange(0, STEPS)
        mask = (numbers < stretches)[:, None] & (inside < WIDTH * WIDTH)[None, :]
        if BACKWARD:
            numbers = stretches - 1 - numbers
        places = sums_ptr + (line * stretches + numbers)[:, None] * (WIDTH * WIDTH) + inside[None, :]
        sums = tl.load(places, mask=mask, other=0.0)
        tl.store(places, total[None, :] + tl.cumsum(sums, 0), mask=mask)
        total += tl.sum(sums, 0)


@triton.jit(do_not_specialize=SIZES)
def grouped_forward(
    q_ptr, k_ptr, v_ptr, o_ptr, sums_ptr, scale_ptr, taps_ptr,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    time, heads, group, span, parts, stretch, stretches, reach,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, PIECE: tl.constexpr, VALUES: tl.constexpr,
    CARRIED: tl.constexpr, LONG: tl.constexpr, SINGLE: tl.constexpr, CONVOLVED: tl.constexpr,
):  # fmt: skip
    """o (B, T, H, WIDTH) of one stretch of one head and one block of VALUES columns of its values.

    sums (B, H, stretches - 1, WIDTH, WIDTH), where there is more than one stretch: of all up to each. The keys of
    a tile come in PIECES, and
    the convolution reaches no further than one before the tile. SINGLE: a tile is one group. LONG: a group is
    several tiles.
    """
    blocks: tl.constexpr = (WIDTH + VALUES - 1) // VALUES
    # the blocks of a stretch side by side: they read the same q and k, the later ones from L2
    block = tl.program_id(0) % blocks
    program = tl.program_id(0) // blocks
    line, number, begin, end, tiles = task(program, parts, stretch, stretches, time, span, ROWS, LONG)
    batch, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    q_base = q_ptr + batch * q_batch + head * q_head
    k_base = k_ptr + batch * k_batch + head * k_head
    v_base = v_ptr + batch * v_batch + head * v_head + block * VALUES
    o_base = o_ptr + (batch * time * heads + head) * WIDTH + block * VALUES
    scale = tl.load(scale_ptr)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, PIECE)[None, :]
    if CONVOLVED:
        taps_base = taps_ptr + head * (reach + 1)
        near = taps_at(taps_base, row - column, reach, v_ptr)
        nearer = taps_at(taps_base, row - column - PIECE, reach, v_ptr)
        far = taps_at(taps_base, row - column + PIECE, reach, v_ptr)

    state = tl.zeros([COLUMNS, VALUES], tl.float32)
    if sums_ptr is not None:
        if number > 0:
            place = line.to(tl.int64) * (stretches - 1) + number - 1
            state = load_state(sums_ptr, place, block, WIDTH, COLUMNS, VALUES)
    for tile in range(0, tiles):
        first = begin + tile * span
        high = tl.minimum(first + span, end)
        q = load_tile(q_base, first, q_time, 0, high, 0, ROWS, COLUMNS, WIDTH)
        q_scale = inverse_length(q)
        out = times_state(q, state, False) * (scale * q_scale)[:, None]
        for piece in tl.static_range(0, (ROWS + PIECE - 1) // PIECE):
            other = first + piece * PIECE
            k = load_tile(k_base, other, k_time, 0, high, 0, PIECE, COLUMNS, WIDTH)
            v = load_tile(v_base, other, v_time, 0, high, block, PIECE, VALUES, WIDTH)
            k_scale = inverse_length(k)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * q_scale[:, None] * k_scale[None, :]
            local = tl.maximum(scores, 0.0)
            # positions, not places in the tile: what does not change with it would be kept in registers
            weights = tl.where(other + column <= first + row, local * local, 0.0)
            if not (SINGLE or LONG):
                across = other + column < first + row // group * group
                weights = tl.where(across, scale * scores, weights)
            out = tl.dot(weights.to(v.dtype), v, out, input_precision="ieee")
            if CONVOLVED:
                out = tl.dot(near if piece == 0 else nearer, v, out, input_precision="ieee")
            if CARRIED:
                state = add_outer(state, k, k_scale, v, False)
        if CONVOLVED:
            low = tl.maximum(first - reach, 0)
            v = load_tile(v_base, first - PIECE, v_time, low, first, block, PIECE, VALUES, WIDTH)
            out = tl.dot(far, v, out, input_precision="ieee")
        if LONG:
            for before in range(number * stretch, first, PIECE):
                k = load_tile(k_base, before, k_time, 0, first, 0, PIECE, COLUMNS, WIDTH)
                scores = tl.dot(q, tl.trans(k), input_precision="ieee")
                local = tl.maximum(scores * q_scale[:, None] * inverse_length(k)[None, :], 0.0)
                v = load_tile(v_base, before, v_time, 0, first, block, PIECE, VALUES, WIDTH)
                out = tl.dot((local * local).to(v.dtype), v, out, input_precision="ieee")
        store_tile(o_base, out, first, heads * WIDTH, high, block, ROWS, VALUES, WIDTH)
