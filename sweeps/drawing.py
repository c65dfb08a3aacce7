"""What several tasks draw in the same way; the order of draws is part of each golden stream."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def draw_rows(
    random: np.random.RandomState,
    choices: Integers,
    num_rows: int,
    size: int,
    weights: NDArray[np.float64] | None = None,
) -> Integers:
    """`size` distinct choices per row, row after row -> (num_rows, size)."""
    rows = [random.choice(choices, size=size, replace=False, p=weights) for _ in range(num_rows)]
    return np.array(rows, dtype=np.int64).reshape(num_rows, size)


def draw_slots(
    random: np.random.RandomState, num_slots: int, num_rows: int, size: int, power_a: float
) -> Integers:
    """`size` distinct query slots per row, p(slot) ~ slot^(power_a - 1), from 0 on -> (num_rows, size)."""
    weights = power_a * np.arange(1, num_slots + 1) ** (power_a - 1)
    return draw_rows(random, np.arange(num_slots), num_rows, size, weights / weights.sum())


def fill(random: np.random.RandomState, inputs: Integers, vocab_size: int) -> None:
    """Put random tokens in the place of every 0, which is where a row has neither pair nor query."""
    blank = inputs == 0
    inputs[blank] = random.randint(0, vocab_size, size=int(blank.sum()))
