"""Window attention, backward: one pass over the queries' gradients and one over the keys' and values'.

Neither adds to memory that another program writes: no atomics, the same bits every time. Weights are made again
from the saved norms, never stored.
"""

import triton
import triton.language as tl

from recallfront.kernels.window_attention.triton_forward import (
    keys_of,
    load_norms,
    load_rows,
    queries_of,
    seen,
    store_rows,
    tilt,
    unmasked,
)


@triton.jit
def window_delta(
    o_ptr, do_ptr, delta_ptr, do_batch, do_time, do_head, time, heads,
    VALUE: tl.constexpr, VALUE_COLUMNS: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """delta (B, H, T): o . do, which the softmax's normalisation takes off every weight's gradient."""
    blocks = tl.cdiv(time, QUERIES)
    first, line = tl.program_id(0) % blocks * QUERIES, tl.program_id(0) // blocks
    batch, head = (line // heads).to(tl.int64), line % heads
    o_base = o_ptr + (batch * time * heads + head) * VALUE
    do_base = do_ptr + batch * do_batch + tl.cast(head, tl.int64) * do_head
    o = load_rows(o_base, first, heads * VALUE, time, QUERIES, VALUE_COLUMNS, VALUE, True)
    do = load_rows(do_base, first, do_time, time, QUERIES, VALUE_COLUMNS, VALUE, True)
    rows = first + tl.arange(0, QUERIES)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta_ptr + (batch * heads + head) * time + rows, delta, mask=rows < time)


@triton.jit
def weigh(
    q, do, shift, k, v, segments_base, query_segments, first, origin, keys, window, slope, scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Weights (QUERIES, KEYS) of the keys from `first` on, short of the norms' factor, and their gradients."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    rows = tl.arange(0, QUERIES)[:, None]
    columns = (first - origin + tl.arange(0, KEYS))[None, :]
    if TILTED:
        scores = tilt(scores, rows, columns, slope, scale, EXACT)
    else:
        scores = scores * scale
    if MASKED:
        key_segments = rows
        if PACKED:
            places = first + tl.arange(0, KEYS)
            key_segments = tl.load(segments_base + places, mask=places < keys, other=0)[None, :]
        visible = seen(rows, columns, query_segments, key_segments, window, WINDOWED, PACKED)
        scores = tl.where(visible, scores, float("-inf"))
    return tl.exp2(scores - shift[:, None]), tl.dot(do, tl.trans(v), input_precision="ieee")


@triton.jit
def window_delta_exact(
    q_ptr, k_ptr, v_ptr, do_ptr, norms_ptr, delta_ptr, slopes_ptr, segments_ptr, reach_ptr,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    do_batch, do_time, do_head, segments_batch,
    time, keys, heads, group, window, scale,
    WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr,
):  # fmt: skip
    """delta as the sum of weights times their gradients.

    That is what o . do is too, but here the roundings are those of the gradients it is about to be taken from: in
    float32 the difference shows.
    """
    batch, head, first, origin = queries_of(time, keys, heads, QUERIES)
    q_base = q_ptr + batch * q_batch + tl.cast(head, tl.int64) * q_head
    q = load_rows(q_base, first, q_time, time, QUERIES, COLUMNS, WIDTH, True)
    do_base = do_ptr + batch * do_batch + tl.cast(head, tl.int64) * do_head
    do = load_rows(do_base, first, do_time, time, QUERIES, VALUE_COLUMNS, VALUE, True)
    k_base = k_ptr + batch * k_batch + tl.cast(head // group, tl.int64) * k_head
    v_base = v_ptr + batch * v_batch + tl.cast(head // group, tl.int64) * v_head
    shift, factor = load_norms(norms_ptr + (batch * heads + head) * 2 * time, first, time, QUERIES, True)
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
    delta = tl.zeros([QUERIES], tl.float32)
    for place in range(low, high, KEYS):
        k = load_rows(k_base, place, k_time, keys, KEYS, COLUMNS, WIDTH, True)
        v = load_rows(v_base, place, v_time, keys, KEYS, VALUE_COLUMNS, VALUE, True)
        weights, dweights = weigh(
            q, do, shift, k, v, segments_base, query_segments, place, origin, keys, window, slope, scale,
            QUERIES, KEYS, WINDOWED, PACKED, TILTED, True, True,
        )  # fmt: skip
        delta += tl.sum(weights * factor[:, None] * dweights, 1)
    rows = first + tl.arange(0, QUERIES)
    tl.store(delta_ptr + (batch * heads + head) * time + rows, delta, mask=rows < time)


@triton.jit
def gather_queries(
    dq, q, do, shift, delta, k_base, v_base, segments_base, query_segments, low, high, origin,
    k_time, v_time, keys, window, slope, scale,
    WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dq, short of the scale and the norms' factor, from the keys `low` ... `high`."""
    for first in range(low, high, KEYS):
        k = load_rows(k_base, first, k_time, keys, KEYS, COLUMNS, WIDTH, MASKED)
        v = load_rows(v_base, first, v_time, keys, KEYS, VALUE_COLUMNS, VALUE, MASKED)
        weights, dweights = weigh(
            q, do, shift, k, v, segments_base, query_segments, first, origin, keys, window, slope, scale,
            QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, MASKED,
        )  # fmt: skip
        dscores = weights * (dweights - delta[:, None])
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def window_queries(
    q_ptr, k_ptr, v_ptr, do_ptr, norms_ptr, delta_ptr, dq_ptr, slopes_ptr, segments_ptr, reach_ptr,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    do_batch, do_time, do_head, segments_batch,
    time, keys, heads, group, window, scale, final_scale,
    WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """dq (B, T, H, WIDTH) of one block of queries of one head; blocks as in `window_forward`."""
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
    do_base = do_ptr + batch * do_batch + tl.cast(head, tl.int64) * do_head
    do = load_rows(do_base, first, do_time, time, QUERIES, VALUE_COLUMNS, VALUE, True)
    rows = tl.arange(0, QUERIES)
    shift, factor = load_norms(norms_ptr + (batch * heads + head) * 2 * time, first, time, QUERIES, EXACT)
    delta_base = delta_ptr + (batch * heads + head) * time + first
    delta = tl.load(delta_base + rows, mask=first + rows < time, other=0.0)
    k_base = k_ptr + batch * k_batch + (head // group).to(tl.int64) * k_head
    v_base = v_ptr + batch * v_batch + (head // group).to(tl.int64) * v_head
    slope = 0.0
    if TILTED:
        slope = tl.load(slopes_ptr + head)
        if not EXACT:
            shift += slope * rows.to(tl.float32)
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
    dq = tl.zeros([QUERIES, COLUMNS], tl.float32)
    if not PACKED:
        inner, outer = unmasked(low, high, origin, window, QUERIES, KEYS, WINDOWED)
        if WINDOWED:
            dq = gather_queries(
                dq, q, do, shift, delta, k_base, v_base, segments_base, query_segments, low, inner, origin,
                k_time, v_time, keys, window, slope, scale,
                WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, True,
            )  # fmt: skip
        dq = gather_queries(
            dq, q, do, shift, delta, k_base, v_base, segments_base, query_segments, inner, outer, origin,
            k_time, v_time, keys, window, slope, scale,
            WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, False,
        )  # fmt: skip
        low = outer
    dq = gather_queries(
        dq, q, do, shift, delta, k_base, v_base, segments_base, query_segments, low, high, origin,
        k_time, v_time, keys, window, slope, scale,
        WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, True,
    )  # fmt: skip
    dq_base = dq_ptr + (batch * time * heads + head) * WIDTH
    dq *= final_scale
    if EXACT:
        dq *= factor[:, None]
    store_rows(dq_base, dq, first, heads * WIDTH, time, QUERIES, COLUMNS, WIDTH)


@triton.jit
def gather_keys(
    dk, dv, k, v, q_base, do_base, norms_base, delta_base, segments_base, key_segments, low, high, before, key,
    q_time, do_time, time, window, slope, scale,
    WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dk, short of the scale, and dv from the queries `low` ... `high`, keys by queries.

    `before` keys stand in front of the first query; `key` is the position of the block's first key.
    """
    columns = tl.arange(0, KEYS)[:, None]
    for first in range(low, high, QUERIES):
        q = load_rows(q_base, first, q_time, time, QUERIES, COLUMNS, WIDTH, True)
        do = load_rows(do_base, first, do_time, time, QUERIES, VALUE_COLUMNS, VALUE, True)
        rows = first + tl.arange(0, QUERIES)
        shift, factor = load_norms(norms_base, first, time, QUERIES, EXACT)
        delta = tl.load(delta_base + rows, mask=rows < time, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision="ieee")
        queries = (before - key + rows)[None, :]
        if TILTED:
            scores = tilt(scores, queries, columns, slope, scale, EXACT)
            if not EXACT:
                shift += slope * (before - key + rows).to(tl.float32)
        else:
            scores = scores * scale
        if MASKED:
            query_segments = queries
            if PACKED:
                places = before + rows
                query_segments = tl.load(segments_base + places, mask=rows < time, other=0)[None, :]
            visible = seen(queries, columns, query_segments, key_segments, window, WINDOWED, PACKED)
            scores = tl.where(visible, scores, float("-inf"))
        weights = tl.exp2(scores - shift[None, :])
        if EXACT:
            weights *= factor[None, :]
        dv = tl.dot(weights.to(do.dtype), do, dv, input_precision="ieee")
        dweights = tl.dot(v, tl.trans(do), input_precision="ieee")
        dscores = weights * (dweights - delta[None, :])
        dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def window_keys(
    q_ptr, k_ptr, v_ptr, do_ptr, norms_ptr, delta_ptr, dk_ptr, dv_ptr, slopes_ptr, segments_ptr, reach_ptr,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    do_batch, do_time, do_head, segments_batch,
    time, keys, heads, shares, window, scale, final_scale,
    WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    TILTED: tl.constexpr, EXACT: tl.constexpr, MEMBERS: tl.constexpr,
):  # fmt: skip
    """dk (B, S, H_kv * shares, WIDTH) and dv of one block of keys, from one of `shares` of its query heads.

    reach (B, blocks): one past the last query that may see a block of keys, where documents are packed.
    """
    blocks = tl.cdiv(keys, KEYS)
    block = tl.program_id(0) % blocks
    line = tl.program_id(0) // blocks
    lines = heads // MEMBERS
    batch, line = (line // lines).to(tl.int64), line % lines
    key, before = block * KEYS, keys - time
    kv_head = (line // shares).to(tl.int64)
    k = load_rows(k_ptr + batch * k_batch + kv_head * k_head, key, k_time, keys, KEYS, COLUMNS, WIDTH, True)
    v = load_rows(
        v_ptr + batch * v_batch + kv_head * v_head, key, v_time, keys, KEYS, VALUE_COLUMNS, VALUE, True
    )
    segments_base = segments_ptr
    key_segments = tl.arange(0, KEYS)[:, None]
    low, high = tl.maximum(key - before, 0), time
    if WINDOWED:
        high = tl.minimum(high, tl.maximum(key + KEYS + window - 1 - before, 0))
    if PACKED:
        segments_base = segments_ptr + batch * segments_batch
        places = key + tl.arange(0, KEYS)
        key_segments = tl.load(segments_base + places, mask=places < keys, other=0)[:, None]
        high = tl.minimum(high, tl.load(reach_ptr + batch * blocks + block))
    dk = tl.zeros([KEYS, COLUMNS], tl.float32)
    dv = tl.zeros([KEYS, VALUE_COLUMNS], tl.float32)
    for member in range(MEMBERS):
        head = line * MEMBERS + member
        q_base = q_ptr + batch * q_batch + tl.cast(head, tl.int64) * q_head
        do_base = do_ptr + batch * do_batch + tl.cast(head, tl.int64) * do_head
        norms_base = norms_ptr + (batch * heads + head) * 2 * time
        delta_base = delta_ptr + (batch * heads + head) * time
        slope = 0.0
        if TILTED:
            slope = tl.load(slopes_ptr + head)
        inner = low
        if MEMBERS == 1 and not PACKED:
            # behind the diagonal and before the windows' ends every query sees every key; more heads than one in
            # a program would have to keep the registers of all three loops
            inner += tl.cdiv(tl.maximum(key + KEYS - 1 - before - low, 0), QUERIES) * QUERIES
            inner = tl.minimum(inner, high)
            dk, dv = gather_keys(
                dk, dv, k, v, q_base, do_base, norms_base, delta_base, segments_base, key_segments,
                low, inner, before, key, q_time, do_time, time, window, slope, scale,
                WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, True,
            )  # fmt: skip
            outer = high
            if WINDOWED:
                outer = inner + tl.maximum(key + window - before - inner, 0) // QUERIES * QUERIES
                outer = tl.minimum(outer, high)
            dk, dv = gather_keys(
                dk, dv, k, v, q_base, do_base, norms_base, delta_base, segments_base, key_segments,
                inner, outer, before, key, q_time, do_time, time, window, slope, scale,
                WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, False,
            )  # fmt: skip
            inner = outer
        if MEMBERS > 1 or PACKED or WINDOWED:
            dk, dv = gather_keys(
                dk, dv, k, v, q_base, do_base, norms_base, delta_base, segments_base, key_segments,
                inner, high, before, key, q_time, do_time, time, window, slope, scale,
                WIDTH, VALUE, COLUMNS, VALUE_COLUMNS, QUERIES, KEYS, WINDOWED, PACKED, TILTED, EXACT, True,
            )  # fmt: skip
    lines = lines.to(tl.int64)
    store_rows(
        dk_ptr + (batch * keys * lines + line) * WIDTH,
        dk * final_scale,
        key,
        lines * WIDTH,
        keys,
        KEYS,
        COLUMNS,
        WIDTH,
    )
    store_rows(
        dv_ptr + (batch * keys * lines + line) * VALUE,
        dv,
        key,
        lines * VALUE,
        keys,
        KEYS,
        VALUE_COLUMNS,
        VALUE,
    )
