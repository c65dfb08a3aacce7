"""Window attention, one token: the ring of keys and values is read once, by as many programs as fill the chip."""

import triton
import triton.language as tl

from recallfront.kernels.window_attention.triton_forward import NEVER


@triton.jit
def window_step(
    q_ptr, k_ptr, v_ptr, keys_ptr, values_ptr, lengths_ptr, o_ptr, parts_ptr, norms_ptr, bias_ptr, slopes_ptr,
    q_batch, q_head, k_batch, k_head, v_batch, v_head,
    keys_batch, keys_head, keys_slot, values_batch, values_head, values_slot, bias_batch, bias_head,
    slots, kv_heads, splits, share, scale,
    GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr,
    VALUE_COLUMNS: tl.constexpr, SLOTS: tl.constexpr, BIASED: tl.constexpr, TILTED: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """The queries of one key head on `share` slots of its ring; o (B, H, VALUE).

    The new token's key and value stand in for what lies in its slot, and the program that has this slot stores
    them. SPLIT: leaves sums of weighted values in parts (B, H_kv, splits, GROUP, VALUE), and largest logits and
    sums of weights in norms (B, H_kv, splits, 2, GROUP), for `window_step_join`.
    """
    split = tl.program_id(0) % splits
    line = tl.program_id(0) // splits
    batch, head = (line // kv_heads).to(tl.int64), (line % kv_heads).to(tl.int64)
    length = tl.load(lengths_ptr + batch)
    slot = (length % slots).to(tl.int32)
    used = tl.minimum(length + 1, slots).to(tl.int32)  # slots behind these were never written
    low = split * share
    high = tl.minimum(low + share, used)

    members, columns, value_columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, VALUE_COLUMNS)
    in_key, in_value = columns < WIDTH, value_columns < VALUE
    q_places = q_ptr + batch * q_batch + (head * GROUP + members[:, None]) * q_head + columns[None, :]
    q = tl.load(q_places, mask=(members < GROUP)[:, None] & in_key[None, :], other=0.0)
    keys_base = keys_ptr + batch * keys_batch + head * keys_head
    values_base = values_ptr + batch * values_batch + head * values_head
    new_k = tl.load(k_ptr + batch * k_batch + head * k_head + columns, mask=in_key, other=0.0)
    new_v = tl.load(v_ptr + batch * v_batch + head * v_head + value_columns, mask=in_value, other=0.0)
    if (slot >= low) & (slot < high):
        tl.store(keys_base + slot.to(tl.int64) * keys_slot + columns, new_k, mask=in_key)
        tl.store(values_base + slot.to(tl.int64) * values_slot + value_columns, new_v, mask=in_value)

    slope = tl.zeros([ROWS], tl.float32)
    if TILTED:
        slope = tl.load(slopes_ptr + head * GROUP + members, mask=members < GROUP, other=0.0)
    total = tl.zeros([ROWS], tl.float32)
    most = tl.full([ROWS], NEVER, tl.float32)
    mixed = tl.zeros([ROWS, VALUE_COLUMNS], tl.float32)
    for first in range(low, high, SLOTS):
        slot_numbers = first + tl.arange(0, SLOTS)
        here = slot_numbers < high
        old = here & (slot_numbers != slot)
        newest = (slot_numbers == slot)[:, None]
        places = keys_base + slot_numbers.to(tl.int64)[:, None] * keys_slot + columns[None, :]
        k = tl.load(places, mask=old[:, None] & in_key[None, :], other=0.0)
        k = tl.where(newest, new_k[None, :], k)
        places = values_base + slot_numbers.to(tl.int64)[:, None] * values_slot + value_columns[None, :]
        v = tl.load(places, mask=old[:, None] & in_value[None, :], other=0.0)
        v = tl.where(newest, new_v[None, :], v)
        if ROWS == 1:
            scores = tl.sum(k.to(tl.float32) * q.to(tl.float32), 1)[None, :] * scale
        else:
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if BIASED:
            places = bias_ptr + batch * bias_batch + (head * GROUP + members[:, None]) * bias_head
            mask = (members < GROUP)[:, None] & here[None, :]
            bias = tl.load(places + slot_numbers[None, :], mask=mask, other=0.0)
            scores += bias.to(tl.float32) * 1.4426950408889634
        if TILTED:
            ages = (slot - slot_numbers + slots) % slots
            scores -= slope[:, None] * ages[None, :].to(tl.float32)
        scores = tl.where(here[None, :], scores, float("-inf"))
        above = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - above[:, None])
        fade = tl.exp2(most - above)
        total = total * fade + tl.sum(weights, 1)
        if ROWS == 1:
            mixed = mixed * fade[:, None] + tl.sum(tl.trans(weights) * v.to(tl.float32), 0)[None, :]
        else:
            mixed = tl.dot(weights.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
        most = above
    mask = (members < GROUP)[:, None] & in_value[None, :]
    if SPLIT:
        part = line.to(tl.int64) * splits + split
        places = parts_ptr + (part * GROUP + members[:, None]) * VALUE + value_columns[None, :]
        tl.store(places, mixed, mask=mask)
        tl.store(norms_ptr + part * 2 * GROUP + members, most, mask=members < GROUP)
        tl.store(norms_ptr + (part * 2 + 1) * GROUP + members, total, mask=members < GROUP)
    else:
        places = o_ptr + (line.to(tl.int64) * GROUP + members[:, None]) * VALUE + value_columns[None, :]
        tl.store(places, (mixed / total[:, None]).to(o_ptr.dtype.element_ty), mask=mask)


@triton.jit
def window_step_join(
    parts_ptr, norms_ptr, o_ptr, splits,
    GROUP: tl.constexpr, VALUE: tl.constexpr, VALUE_COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Joins what the programs of one key head found, for one of its queries."""
    line, member = (tl.program_id(0) // GROUP).to(tl.int64), tl.program_id(0) % GROUP
    parts, columns = tl.arange(0, PARTS), tl.arange(0, VALUE_COLUMNS)
    part = line * splits + parts
    most = tl.load(norms_ptr + part * 2 * GROUP + member, mask=parts < splits, other=NEVER)
    total = tl.load(norms_ptr + (part * 2 + 1) * GROUP + member, mask=parts < splits, other=0.0)
    weights = tl.exp2(most - tl.max(most, 0))
    places = parts_ptr + (part[:, None] * GROUP + member) * VALUE + columns[None, :]
    # a part without a used slot has nothing to read
    mixed = tl.load(places, mask=(total > 0.0)[:, None] & (columns < VALUE)[None, :], other=0.0)
    o = tl.sum(mixed * weights[:, None], 0) / tl.sum(total * weights, 0)
    tl.store(
        o_ptr + (line * GROUP + member) * VALUE + columns, o.to(o_ptr.dtype.element_ty), mask=columns < VALUE
    )
