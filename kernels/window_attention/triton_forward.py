"""Window attention, forward: blocks of queries against the blocks of keys that their windows reach.

Logits are kept in units of log2: exp2 is what the hardware has, and scale and slopes take the factor along.
"""

import triton
import triton.language as tl

NEVER = tl.constexpr(-1.0e30)  # below every logit, and finite: what is masked (-inf) less it stays -inf


@triton.jit
def load_rows(
    base,
    first,
    stride,
    limit,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    CUT: tl.constexpr,
):
    """Rows `first`, ... of a matrix as (ROWS, COLUMNS); zeros right of WIDTH and, where CUT, from row `limit` on."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    # a 64-bit step to the block, 32-bit steps inside it
    places = base + tl.cast(first, tl.int64) * stride + (rows[:, None] * stride + columns[None, :])
    if CUT and WIDTH < COLUMNS:
        return tl.load(places, mask=((first + rows) < limit)[:, None] & (columns < WIDTH)[None, :], other=0.0)
    elif CUT:
        return tl.load(places, mask=((first + rows) < limit)[:, None], other=0.0)
    elif WIDTH < COLUMNS:
        return tl.load(places, mask=(columns < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(places)


@triton.jit
def store_rows(
    base, values, first, stride, limit, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr
):
    """The counterpart of `load_rows`, in the type of the memory."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    places = base + tl.cast(first, tl.int64) * stride + (rows[:, None] * stride + columns[None, :])
    mask = ((first + rows) < limit)[:, None] & (columns < WIDTH)[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def seen(queries, keys, query_segments, key_segments, window, WINDOWED: tl.constexpr, PACKED: tl.constexpr):
    """Which keys a query sees: broadcasts the positions against each other."""
    visible = keys <= queries
    if WINDOWED:
        visible = visible & (keys > queries - window)
    if PACKED:
        visible = visible & (query_segments == key_segments)
    return visible


@triton.jit
def tilt(scores, queries, keys, slope, scale, EXACT: tl.constexpr):
    """scale * scores + slope * (key - query), positions being relative to the block's first query.

    Short of EXACT the queries' share is left out: it is the same for all keys, and 16-bit weights do not need
    the last bits of the difference. Whoever compares rows puts it back.
    """
    if EXACT:
        return scores * scale + slope * (keys - queries).to(tl.float32)
    else:
        return scores * scale + slope * keys.to(tl.float32)


@triton.jit
def queries_of(time, keys, heads, QUERIES: tl.constexpr):
    """This program's text, head, first query, and that one's position among the keys.

    Blocks of one head follow each other, so that its keys stay in L2; the longest come first.
    """
    blocks = tl.cdiv(time, QUERIES)
    line = tl.program_id(0) // blocks
    first = (blocks - 1 - tl.program_id(0) % blocks) * QUERIES
    return (line // heads).to(tl.int64), line % heads, first, first + keys - time


@triton.jit
def keys_of(
    segments_ptr, reach_ptr, batch, segments_batch, first, origin, time, keys, window,
    QUERIES: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """The segments of a block of queries, and the keys from where to where it may see any."""
    query_segments = tl.arange(0, QUERIES)[:, None]
    low, high = tl.zeros((), tl.int32), tl.minimum(origin + QUERIES, keys)
    if WINDOWED:
        low = tl.maximum(low, origin - window + 1)
    if PACKED:
        places = origin + tl.arange(0, QUERIES)
        base = segments_ptr + batch * segments_batch
        query_segments = tl.load(base + places, mask=places < keys, other=0)[:, None]
        low = tl.maximum(low, tl.load(reach_ptr + batch * tl.cdiv(time, QUERIES) + first // QUERIES))
    return query_segments, low, high


@triton.jit
def unmasked(low, high, origin, window, QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr):
    """From where to where every query sees every key: between the windows' left edges and the diagonal."""
    inner = low
    if WINDOWED:
        inner += tl.cdiv(tl.maximum(origin + QUERIES - window - low, 0), KEYS) * KEYS
        inner = tl.minimum(inner, high)
    return inner, inner + tl.maximum(origin + 1 - inner, 0) // KEYS * KEYS


@triton.jit
def attend(
    total, most, mixed, q, k_base, v_base, segments_base, query_segments, low, high, origin,
    k_time, v_time, keys, window, slope, scale,
    WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys `low` ... `high`; `origin` is the position of the block's first query."""
    rows = tl.arange(0, QUERIES)[:, None]
    for first in range(low, high, KEYS):
        k = load_rows(k_base, first, k_time, keys, KEYS, COLUMNS, WIDTH, MASKED)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        columns = (first - origin + tl.arange(0, KEYS))[None, :]
        if MASKED:
            key_segments = rows
            if PACKED:
                places = first + tl.arange(0, KEYS)
                key_segments = tl.load(segments_base + places, mask=places < keys, other=0)[None, :]
            visible = seen(rows, columns, query_segments, key_segments, window, WINDOWED, PACKED)
            scores = tl.where(visible, scores, float("-inf"))
        if TILTED:
            scores = tilt(scores, rows, columns, slope, scale, EXACT)
            above = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp2(scores - above[:, None])
        else:  # scale is positive: it commutes with the maximum, and multiplying fuses with subtracting
            above = tl.maximum(most, tl.max(scores, 1) * scale)
            weights = tl.exp2(scores * scale - above[:, None])
        fade = tl.exp2(most - above)
        total = total * fade + tl.sum(weights, 1)
        v = load_rows(v_base, first, v_time, keys, KEYS, VALUE_COLUMNS, VALUE, MASKED)
        mixed = tl.dot(weights.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
        most = above
    return total, most, mixed


@triton.jit
def window_forward(
    q_ptr, k_ptr, v_ptr, o_ptr, norms_ptr, slopes_ptr, segments_ptr, reach_ptr,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, segments_batch,
    time, keys, heads, group, window, scale,
    WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head: o (B, T, H, VALUE) and norms (B, H, 2, T), which are each row's largest
    logit, in log2 units, and its sum of weights relative to that.

    reach (B, blocks): the first key that a block of queries may see, where documents are packed.
    """
    batch, head, first, origin = queries_of(time, keys, heads, QUERIES)
    q = load_rows(
        q_ptr + batch * q_batch + tl.cast(head, tl.int64) * q_head,
        first,
        q_time,
        time,
        QUERIES,
        COLUMNS,
        WIDTH,
        True,
    )
    k_base = k_ptr + batch * k_batch + (head // group).to(tl.int64) * k_head
    v_base = v_ptr + batch * v_batch + (head // group).to(tl.int64) * v_head
    slope = 0.0
    if TILTED:
        slope = tl.load(slopes_ptr + head)
    segments_base = segments_ptr
    if PACKED:
        segments_base = segments_ptr + batch * segments_batch
    query_segments, low, high = keys_of(
        segments_ptr,
        reach_ptr,
        batch,
        segments_batch,
        first,
        origin,
        time,
        keys,
        window,
        QUERIES,
        WINDOWED,
        PACKED,
    )
    total = tl.zeros([QUERIES], tl.float32)
    most = tl.full([QUERIES], NEVER, tl.float32)
    mixed = tl.zeros([QUERIES, VALUE_COLUMNS], tl.float32)
    if not PACKED:
        inner, outer = unmasked(low, high, origin, window, QUERIES, KEYS, WINDOWED)
        if WINDOWED:
            total, most, mixed = attend(
                total, most, mixed, q, k_base, v_base, segments_base, query_segments, low, inner, origin,
                k_time, v_time, keys, window, slope, scale,
                WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, True,
            )  # fmt: skip
        total, most, mixed = attend(
            total, most, mixed, q, k_base, v_base, segments_base, query_segments, inner, outer, origin,
            k_time, v_time, keys, window, slope, scale,
            WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, False,
        )  # fmt: skip
        low = outer
    total, most, mixed = attend(
        total, most, mixed, q, k_base, v_base, segments_base, query_segments, low, high, origin,
        k_time, v_time, keys, window, slope, scale,
        WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, True,
    )  # fmt: skip
    o_base = o_ptr + (batch * time * heads + head) * VALUE
    store_rows(o_base, mixed / total[:, None], first, heads * VALUE, time, QUERIES, VALUE_COLUMNS, VALUE)
    rows = tl.arange(0, QUERIES)
    if TILTED and not EXACT:
        most -= slope * rows.to(tl.float32)
    norms_base = norms_ptr + (batch * heads + head) * 2 * time + first
    tl.store(norms_base + rows, most, mask=first + rows < time)
    tl.store(norms_base + time + rows, total, mask=first + rows < time)


@triton.jit
def load_norms(base, first, time, ROWS: tl.constexpr, EXACT: tl.constexpr):
    """What turns logits into weights: exp2(logit - shift) * factor. Rows behind the end get weights of 0.

    The factor is 1 where one logsumexp does; its rounding is too coarse for float32.
    """
    rows = first + tl.arange(0, ROWS)
    most = tl.load(base + rows, mask=rows < time, other=float("inf"))
    total = tl.load(base + time + rows, mask=rows < time, other=1.0)
    if EXACT:
        return most, 1.0 / total
    else:
        return most + tl.log2(total), total
