"""What recall is the mean of, on the examples of its definitions."""

import pytest
import torch

from recallfront.platform.trial.recall import Over, share_sums

ANSWERS = torch.tensor([0, 0, 0, 1])
PREDICTED = torch.tensor([0, 0, 0, 2])


@pytest.mark.parametrize(
    ("over", "rows", "expected"),
    [
        ("positions", [0, 0, 0, 1], (0.0, 0.0)),
        # a row of one question weighs as much as one of three
        ("rows", [0, 0, 0, 1], (1.0, 2.0)),
        ("rows", [1, 3, 3, 3], (1 + 2 / 3, 2.0)),
        # greedy decoding answers a row only if all of it is right
        ("answers", [0, 0, 0, 1], (1.0, 2.0)),
        ("answers", [1, 3, 3, 3], (1.0, 2.0)),
        # classes 0, 1 and 2: the last is predicted and never an answer
        ("classes", [0, 0, 0, 1], (1 / 3, 1.0)),
    ],
)
def test_shares(over: Over, rows: list[int], expected: tuple[float, float]) -> None:
    assert share_sums(over, PREDICTED, ANSWERS, torch.tensor(rows)) == pytest.approx(expected)


@pytest.mark.parametrize("over", ["positions", "rows", "answers", "classes"])
def test_nothing_asked_is_nothing_counted(over: Over) -> None:
    none = torch.empty(0, dtype=torch.long)
    assert share_sums(over, none, none, none) == (0.0, 0.0)
