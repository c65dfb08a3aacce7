"""Grouped attention, one token: the rings and the sums of a head are read once, and read out as they change."""

import triton
import triton.language as tl

from recallfront.kernels.grouped_attention.triton_forward import inverse_length


@triton.jit(do_not_specialize=["heads", "group", "size"])
def grouped_step(
    q_ptr, k_ptr, v_ptr, sums_ptr, keys_ptr, values_ptr, tail_ptr, lengths_ptr, scale_ptr, taps_ptr, o_ptr,
    q_batch, q_head, k_batch, k_head, v_batch, v_head, heads, group, size,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, VALUES: tl.constexpr, SLOTS: tl.constexpr, CONVOLVED: tl.constexpr,
):  # fmt: skip
    """o (B, H, WIDTH) of one head and one block of VALUES columns of its values; the states change in place.

    sums (B, H, WIDTH, WIDTH), keys and values (B, H, group, WIDTH), tail (B, H, size, WIDTH), each in one piece. The
    new token's key and value stand in for what lies in its slot: the blocks of a head need not wait for each other.
    """
    blocks: tl.constexpr = (WIDTH + VALUES - 1) // VALUES
    block = tl.program_id(0) % blocks
    line = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = line // heads, line % heads
    q_base = q_ptr + batch * q_batch + head * q_head
    k_base = k_ptr + batch * k_batch + head * k_head
    length = tl.load(lengths_ptr + batch)
    slot = (length % group).to(tl.int32)
    scale = tl.load(scale_ptr).to(tl.float32)

    columns, places = tl.arange(0, COLUMNS)[None, :], block * VALUES + tl.arange(0, VALUES)
    q = tl.load(q_base + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    k = tl.load(k_base + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    v_base = v_ptr + batch * v_batch + head * v_head
    v = tl.load(v_base + places, mask=places < WIDTH, other=0.0).to(tl.float32)
    q_scale, k_scale = inverse_length(q), inverse_length(k)
    q, k = q * q_scale[:, None], k * k_scale[:, None]
    keys_base, values_base = keys_ptr + line * group * WIDTH, values_ptr + line * group * WIDTH
    tl.store(keys_base + slot * WIDTH + columns, k, mask=(columns < WIDTH) & (block == 0))
    tl.store(values_base + slot * WIDTH + places, v, mask=places < WIDTH)

    out = tl.zeros([VALUES], tl.float32)
    for first in range(0, group, SLOTS):
        slots = first + tl.arange(0, SLOTS)
        old, new = ((slots < group) & (slots != slot))[:, None], (slots == slot)[:, None]
        keys = tl.load(keys_base + slots[:, None] * WIDTH + columns, mask=old & (columns < WIDTH), other=0.0)
        values = values_base + slots[:, None] * WIDTH + places[None, :]
        values = tl.load(values, mask=old & (places < WIDTH)[None, :], other=0.0)
        scores = tl.sum(tl.where(new, k, keys) * q, 1)
        local = tl.maximum(scores, 0.0)
        weights = tl.where(slots <= slot, local * local, scale * scores)
        out += tl.sum(tl.where(new, v[None, :], values) * weights[:, None], 0)

    if CONVOLVED:
        tail_base, taps_base = tail_ptr + line * size * WIDTH, taps_ptr + head * size
        newest = (length % size).to(tl.int32)
        tl.store(tail_base + newest * WIDTH + places, v, mask=places < WIDTH)
        out += v * tl.load(taps_base + size - 1).to(tl.float32)
        for first in range(0, size, SLOTS):
            slots = first + tl.arange(0, SLOTS)
            old = (slots < size) & (slots != newest)
            ages = (newest - slots + size) % size
            weights = tl.load(taps_base + size - 1 - ages, mask=old, other=0.0).to(tl.float32)
            tail = tail_base + slots[:, None] * WIDTH + places[None, :]
            tail = tl.load(tail, mask=old[:, None] & (places < WIDTH)[None, :], other=0.0)
            out += tl.sum(tail * weights[:, None], 0)

    # the token that leaves the group before: its slot is the next one's
    leaving = (slot + 1) % group
    stays = leaving == slot  # groups of one token
    gone_v = tl.load(
        values_base + leaving * WIDTH + places, mask=(places < WIDTH) & (leaving != slot), other=0.0
    )
    gone_v = tl.where(stays, v, gone_v)
    for first in range(0, WIDTH, SLOTS):
        rows = first + tl.arange(0, SLOTS)
        there = rows < WIDTH
        q_rows = tl.load(q_base + rows, mask=there, other=0.0).to(tl.float32) * q_scale
        k_rows = tl.load(k_base + rows, mask=there, other=0.0).to(tl.float32) * k_scale
        gone_k = tl.load(keys_base + leaving * WIDTH + rows, mask=there & (leaving != slot), other=0.0)
        gone_k = tl.where(stays, k_rows, gone_k)
        inside = there[:, None] & (places < WIDTH)[None, :]
        state = sums_ptr + (line * WIDTH + rows[:, None]) * WIDTH + places[None, :]
        sums = tl.load(state, mask=inside, other=0.0)
        out += scale * tl.sum(sums * q_rows[:, None], 0)
        tl.store(state, sums + gone_k[:, None] * gone_v[None, :], mask=inside)
    tl.store(o_ptr + line * WIDTH + places, out.to(o_ptr.dtype.element_ty), mask=places < WIDTH)
