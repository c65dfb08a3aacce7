"""What the scan kernels share: composing steps, and handing a carry from program to program.

A scan is walked by one program a block of channels where these fill the chip. Where they do not, every tile of
time has a program of its own, and the programs of one block of channels form a chain: each scans its tile from
0, waits for the state that its predecessor leaves, adds what that state becomes, and hands on. Inputs are read
and outputs written once either way, and the order of the additions is fixed: the same bits every time.

Programs take tickets, so that a predecessor has always been started before; the GPU promises no other order.
A handed-on state is one 64-bit word, the float above a mark that it is there: it cannot be seen half-written,
so no fence is needed.
"""

import triton
import triton.language as tl


@triton.jit
def compose(a_first, b_first, a_second, b_second):
    """The step h -> a h + b that stands for two steps, the first one first."""
    return a_first * a_second, a_second * b_first + b_second


@triton.jit
def row_of(tile, row, ROWS: tl.constexpr):
    """Row `row` of a tile (ROWS, columns)."""
    return tl.sum(tl.where((tl.arange(0, ROWS) == row)[:, None], tile, 0.0), axis=0)


@triton.jit
def receive(word_ptr, inside):
    """Wait for the states that a predecessor hands on."""
    word = tl.load(word_ptr, mask=inside, other=1, volatile=True)
    while tl.min(word & 1, axis=0) == 0:
        word = tl.load(word_ptr, mask=inside, other=1, volatile=True)
    return (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def hand_on(word_ptr, state, inside):
    """Give the states to the successor. An exchange, because it is a single write that all programs see."""
    word = (state.to(tl.int32, bitcast=True).to(tl.int64) << 32) | 1
    tl.atomic_xchg(word_ptr, word, mask=inside, sem="relaxed")
