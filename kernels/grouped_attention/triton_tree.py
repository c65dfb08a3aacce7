"""Grouped attention of a draft tree: every node reads the state before the tree, and its own ancestors."""

import triton
import triton.language as tl

from recallfront.kernels.grouped_attention.triton_forward import (
    inverse_length,
    load_state,
    load_tile,
    store_tile,
)


@triton.jit
def newest_tokens(length, slots, size):
    """The newest token below `length` in each slot of a ring of `size`; negative where none lies."""
    return length - 1 - (length - 1 - slots + size) % size


@triton.jit
def load_ring(
    base, slots, there, block, VALUES: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Slots of a ring as (slots, VALUES), zeros where nothing is `there`."""
    columns = block * VALUES + tl.arange(0, VALUES)
    mask = there[:, None] & (columns < WIDTH)[None, :]
    return tl.load(base + slots[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0)


@triton.jit
def within(ages, size):
    """0 <= ages < size, in one comparison: a negative number is a large one without its sign."""
    return ages.to(tl.uint32) < size


@triton.jit
def mixing(scores, same, scale):
    """The weight of a key: its group is the node's own, or one before."""
    local = tl.maximum(scores, 0.0)
    return tl.where(same, local * local, scale * scores)


@triton.jit(do_not_specialize=["nodes", "heads", "group", "size", "parts"])
def grouped_tree(
    q_ptr, k_ptr, v_ptr, sums_ptr, keys_ptr, values_ptr, tail_ptr, lengths_ptr, positions_ptr, seen_ptr, scale_ptr,
    taps_ptr, o_ptr,
    q_batch, q_node, q_head, k_batch, k_node, k_head, v_batch, v_node, v_head, nodes, heads, group, size, parts,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, VALUES: tl.constexpr, ROWS: tl.constexpr, PIECE: tl.constexpr,
    CONVOLVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o (B, N, H, WIDTH) of ROWS nodes of one head and one block of VALUES columns of their values.

    positions (B, N); seen (N, N): a node's ancestors and itself; the states as in `grouped_step`. The convolution is
    unfolded into the weights of the nodes' values.
    """
    blocks: tl.constexpr = (WIDTH + VALUES - 1) // VALUES
    block = tl.program_id(0) % blocks
    first = tl.program_id(0) // blocks % parts * ROWS
    line = (tl.program_id(0) // blocks // parts).to(tl.int64)
    batch, head = line // heads, line % heads
    k_base, v_base = k_ptr + batch * k_batch + head * k_head, v_ptr + batch * v_batch + head * v_head
    length = tl.load(lengths_ptr + batch).to(tl.int32)
    scale = tl.load(scale_ptr).to(tl.float32)

    node = first + tl.arange(0, ROWS)
    position = tl.load(positions_ptr + batch * nodes + node, mask=node < nodes, other=0).to(tl.int32)
    q_base = q_ptr + batch * q_batch + head * q_head
    q = load_tile(q_base, first, q_node, 0, nodes, 0, ROWS, COLUMNS, WIDTH).to(tl.float32)
    q *= inverse_length(q)[:, None]
    state = load_state(sums_ptr, line, block, WIDTH, COLUMNS, VALUES)
    out = tl.dot(q, state, input_precision=PRECISION) * scale

    keys_base = keys_ptr + line * group * WIDTH
    for start in range(0, group, PIECE):
        slots = start + tl.arange(0, PIECE)
        tokens = newest_tokens(length, slots, group)
        there = (slots < group) & (tokens >= 0) & (tokens > length - group)
        keys = load_ring(keys_base, slots, there, 0, COLUMNS, WIDTH)
        values = load_ring(values_ptr + line * group * WIDTH, slots, there, block, VALUES, WIDTH)
        scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        same = (position // group)[:, None] == (tokens // group)[None, :]
        out = tl.dot(mixing(scores, same, scale), values, out, input_precision=PRECISION)

    for start in range(0, nodes, PIECE):
        other = start + tl.arange(0, PIECE)
        k = load_tile(k_base, start, k_node, 0, nodes, 0, PIECE, COLUMNS, WIDTH).to(tl.float32)
        v = load_tile(v_base + block * VALUES, start, v_node, 0, nodes, block, PIECE, VALUES, WIDTH)
        at = tl.load(positions_ptr + batch * nodes + other, mask=other < nodes, other=0).to(tl.int32)
        inside = (node < nodes)[:, None] & (other < nodes)[None, :]
        seen = tl.load(seen_ptr + node[:, None] * nodes + other[None, :], mask=inside, other=0) != 0
        scores = tl.dot(q, tl.trans(k * inverse_length(k)[:, None]), input_precision=PRECISION)
        same = (position // group)[:, None] == (at // group)[None, :]
        weights = tl.where(seen, mixing(scores, same, scale), 0.0)
        if CONVOLVED:
            ages = position[:, None] - at[None, :]
            taps = taps_ptr + head * size + size - 1 - ages
            weights += tl.load(taps, mask=seen & within(ages, size), other=0.0).to(tl.float32)
        out = tl.dot(weights, v.to(tl.float32), out, input_precision=PRECISION)

    if CONVOLVED:
        for start in range(0, size, PIECE):
            slots = start + tl.arange(0, PIECE)
            tokens = newest_tokens(length, slots, size)
            there = (slots < size) & (tokens >= 0)
            tail = load_ring(tail_ptr + line * size * WIDTH, slots, there, block, VALUES, WIDTH)
            ages = position[:, None] - tokens[None, :]
            near = there[None, :] & within(ages, size) & (node < nodes)[:, None]
            weights = tl.load(taps_ptr + head * size + size - 1 - ages, mask=near, other=0.0).to(tl.float32)
            out = tl.dot(weights, tail, out, input_precision=PRECISION)
    o_base = o_ptr + (batch * nodes * heads + head) * WIDTH + block * VALUES
    store_tile(o_base, out, first, heads * WIDTH, nodes, block, ROWS, VALUES, WIDTH)
