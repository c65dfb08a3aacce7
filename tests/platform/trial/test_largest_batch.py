"""The largest batch is found by trying, with few trials, and none far above what fits."""

import pytest
import torch

from recallfront.platform.trial.largest_batch import largest_batch, peak_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("bound", [1_000, 10_000, 1_234_567, 10**9])
@pytest.mark.parametrize(("fixed", "row"), [(0, 1), (300, 7), (900, 99), (0, 1000)])
def test_what_fits_is_found_within_half_a_percent(fixed: int, row: int, bound: int) -> None:
    tried: list[int] = []

    def taken(rows: int) -> int:
        tried.append(rows)
        return fixed + rows * row

    found = largest_batch(taken, bound, row // 2, most=2**24)
    exact = min((bound - fixed) // row, 2**24)
    assert exact * (1 - 1 / 256) <= found <= exact
    assert len(tried) < 30
    assert max(tried) <= max(8, 2 * exact), "no try takes much more than the bound"


def test_without_a_bound_memory_runs_out() -> None:
    assert largest_batch(lambda rows: rows if rows <= 777 else None, None, 1, most=2**24) in range(773, 778)


def test_a_row_that_does_not_fit_and_a_batch_that_is_large_enough() -> None:
    assert largest_batch(lambda rows: None, None, 1, most=8) == 0
    assert largest_batch(lambda rows: 100 * rows, 99, 1, most=8) == 0
    assert largest_batch(lambda rows: 0, None, 1, most=1000) == 1000
    assert largest_batch(lambda rows: rows, 10**6, 1, most=1000) == 1000


def test_the_peak_is_what_is_held_at_once() -> None:
    def run() -> None:
        first = torch.zeros(1000)
        second = first + 1
        del first
        (second * 2).sum()

    assert 2 * 4000 <= peak_bytes(run, CPU) <= 2 * 4000 + 1024  # type: ignore[operator]


def test_memory_that_runs_out_is_no_error_and_any_other_error_is() -> None:
    assert peak_bytes(lambda: torch.empty(2**60, dtype=torch.int8), CPU) is None
    with pytest.raises(RuntimeError, match="size of tensor"):
        peak_bytes(lambda: torch.zeros(2).add_(torch.zeros(3)), CPU)
