"""Kernel of one decoding step of Taylor attention."""

import triton
import triton.language as tl


@triton.jit
def factors(x, row, i, j, scale, FEATURES: tl.constexpr):
    """Features of x at rows of the state, in `taylor_features`' order."""
    pair = (row > FEATURES) & (i < FEATURES)
    entry = (row > 0) & (row <= FEATURES)
    first = tl.load(x + tl.where(entry, row - 1, i), mask=pair | entry, other=1.0).to(tl.float32)
    second = tl.load(x + j, mask=pair, other=1.0).to(tl.float32)
    weight = tl.where(pair, tl.where(i == j, scale * 0.7071067811865476, scale), 1.0)
    return first * second * tl.where(entry, tl.sqrt(scale), weight)


@triton.jit
def step_kernel(
    q, k, v, state, o,
    scale, eps, heads,
    q_batch, q_head, k_batch, k_head, v_batch, v_head, state_batch, state_head,
    FEATURES: tl.constexpr, VALUES: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add one token to the state (features, VALUES + 1) of a head, in place, and read it out."""
    WIDTH: tl.constexpr = 1 + FEATURES + FEATURES * (FEATURES + 1) // 2
    head_index = tl.program_id(0).to(tl.int64)
    batch, head = head_index // heads, head_index % heads
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    state += batch * state_batch + head * state_head
    f, n = tl.arange(0, PADDED), tl.arange(0, COLUMNS)
    starts = 1 + FEATURES + f * FEATURES - f * (f - 1) // 2  # the row of x_f x_f
    wide = n < VALUES
    value = tl.load(v + batch * v_batch + head * v_head + n, mask=wide, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK, COLUMNS], tl.float32)
    below = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, WIDTH, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        live = row < WIDTH
        i = tl.sum(((row[:, None] >= starts[None, :]) & (f < FEATURES)[None, :]).to(tl.int32), 1) - 1
        j = row - (1 + FEATURES + i * FEATURES - i * (i - 1) // 2) + i
        key = factors(k, row, tl.where(live, i, FEATURES), j, scale, FEATURES)
        query = factors(q, row, tl.where(live, i, FEATURES), j, scale, FEATURES)
        where = state + row * (VALUES + 1)
        there = live[:, None] & wide[None, :]
        sums = tl.load(where[:, None] + n[None, :], mask=there, other=0.0) + key[:, None] * value[None, :]
        tl.store(where[:, None] + n[None, :], sums, mask=there)
        norms = tl.load(where + VALUES, mask=live, other=0.0) + key
        tl.store(where + VALUES, norms, mask=live)
        query = tl.where(live, query, 0.0)
        total += sums * query[:, None]
        below += norms * query
    out = tl.sum(total, 0) / (tl.sum(below, 0) + eps)
    tl.store(o + head_index * VALUES + n, out.to(o.dtype.element_ty), mask=wide)
