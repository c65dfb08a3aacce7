"""Rows of safari's tasks where few are possible: their order, how many there are, and what is refused."""

from typing import Any

import numpy as np
import pytest

from recallfront.sweeps.safari import SafariTask, distinct_rows
from recallfront.sweeps.tasks.registry import parse_task

SMALL: list[tuple[str, dict[str, Any], int]] = [
    ("safari_induction_head", {"vocab_size": 4}, 5),
    ("safari_induction_head", {"vocab_size": 4, "induction_num_triggers": 3}, 6),
    ("safari_induction_head", {"vocab_size": 4, "induction_len": 2, "induction_num_triggers": 2}, 7),
    ("safari_associative_recall", {"vocab_size": 6}, 6),
    ("safari_associative_recall", {"vocab_size": 7, "allow_dot": True}, 4),
    ("safari_associative_recall", {"vocab_size": 6, "num_keys": 2}, 6),
]


def make(name: str, settings: dict[str, Any], length: int, examples: int = 1) -> SafariTask:
    rows = [{"length": length, "examples": examples}]
    found = parse_task({"name": name, **settings, "train": rows, "validation": rows, "test": rows})
    assert isinstance(found, SafariTask)
    return found


def test_what_is_drawn_for_repeated_rows_stands_behind_the_sorted_ones() -> None:
    """The authors' own steps: sort and take single rows once, append, and shuffle in the end."""
    drawn = iter([[3], [1], [3], [1], [1], [9], [3], [0]])
    found = distinct_rows(np.random.default_rng(0), 4, lambda: next(drawn), possible=10)
    expected = np.array([[1], [3], [9], [0]])
    np.random.default_rng(0).shuffle(expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("name", "settings", "length"), SMALL)
def test_every_possible_row_can_be_asked_for(name: str, settings: dict[str, Any], length: int) -> None:
    task = make(name, settings, length)
    rng = np.random.default_rng(1)
    possible = task.possible_rows(length, 10**6)
    assert len({tuple(task.row(rng, length)) for _ in range(20 * possible)}) == possible
    (segment,) = make(name, settings, length, possible).build("train")
    assert len(segment.inputs) == possible


def test_more_rows_than_are_possible_are_refused() -> None:
    name, settings, length = SMALL[0]
    with pytest.raises(ValueError, match="examples=49: only 48 different rows are possible"):
        make(name, settings, length, 49).build("train")
