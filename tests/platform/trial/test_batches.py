"""Batches: a function of seed and step alone, every row once an epoch, one length a batch."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from recallfront.platform.trial.batches import Order, training_batches
from recallfront.sweeps.tasks.base import Segment


def segment(name: str, rows: int, length: int, first: int) -> Segment:
    """Rows that tell which one they are: row i holds first + i everywhere."""
    inputs = (first + torch.arange(rows))[:, None].expand(rows, length)
    return Segment(name, inputs, -inputs)


SEGMENTS = [segment("short", 12, 4, 0), segment("long", 8, 6, 100)]


def take(
    count: int, *, segments: list[Segment] | None = None, size: int = 4, seed: int = 0, first_step: int = 0
) -> list[tuple[Tensor, Tensor]]:
    found = training_batches(segments or SEGMENTS, Order(size), seed=seed, first_step=first_step)
    return list(islice(found, count))


def rows(batches: list[tuple[Tensor, Tensor]]) -> list[int]:
    return [int(value) for inputs, _ in batches for value in inputs[:, 0]]


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_row_comes_once_an_epoch(epoch: int) -> None:
    assert sorted(rows(take(5, first_step=5 * epoch))) == [*range(12), *range(100, 108)]


def test_labels_stay_with_their_rows_and_lengths_apart() -> None:
    for inputs, labels in take(20):
        assert torch.equal(labels, -inputs) and inputs.shape[0] == 4
        long = inputs.shape[1] == 6
        assert all((value >= 100) == long for value in inputs[:, 0].tolist())


@pytest.mark.parametrize("step", [1, 4, 5, 6, 11, 23])
def test_a_resumed_trial_sees_the_same(step: int) -> None:
    whole, rest = take(30)[step:], take(30 - step, first_step=step)
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(whole, rest, strict=True))


def test_epochs_and_seeds_differ() -> None:
    first, second = rows(take(5)), rows(take(5, first_step=5))
    assert first != second and first == rows(take(5)) != rows(take(5, seed=1))
    assert [b.shape for b, _ in take(5)] != [b.shape for b, _ in take(5, seed=2)] or first != rows(
        take(5, seed=2)
    )


def test_rows_that_fill_no_batch_are_left_out_of_that_epoch_alone() -> None:
    one = [segment("odd", 10, 4, 0)]
    seen = [rows(take(2, segments=one, first_step=2 * epoch)) for epoch in range(20)]
    assert all(len(set(epoch)) == 8 for epoch in seen)
    assert set().union(*seen) == set(range(10))


def test_a_small_segment_fills_its_batch_with_its_rows_again() -> None:
    batches = take(4, segments=[segment("tiny", 3, 4, 0), SEGMENTS[1]], size=8)
    tiny = [inputs[:, 0].tolist() for inputs, _ in batches if inputs.shape[1] == 4]
    assert len(tiny) == 2 and all(len(batch) == 8 and set(batch) == {0, 1, 2} for batch in tiny)


def test_a_given_order_is_kept_to_the_last_row() -> None:
    """Zoology's batches: segments one after another, and what fills no batch is one of its own."""
    order = Order(5, given=True)
    assert order.epoch(SEGMENTS) == 5
    found = list(islice(training_batches(SEGMENTS, order, seed=3), 5))
    assert rows(found) == [*range(12), *range(100, 108)]
    assert [len(inputs) for inputs, _ in found] == [5, 5, 2, 5, 3]
    resumed = list(islice(training_batches(SEGMENTS, order, seed=3, first_step=7), 3))
    assert rows(resumed) == [10, 11, *range(100, 108)]


def test_workers_share_every_batch_of_a_given_order() -> None:
    order = Order(4, given=True, multiple=2)
    found = list(islice(training_batches([segment("odd", 11, 4, 0)], order, seed=0), 4))
    assert [len(inputs) for inputs, _ in found] == [4, 4, 2, 4] and order.epoch([SEGMENTS[0]]) == 3


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    take(3)
    assert torch.equal(before, torch.get_rng_state())
