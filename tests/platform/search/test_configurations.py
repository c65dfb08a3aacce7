"""The configurations that a search chooses from."""

from typing import Any

import numpy as np
import pytest

from recallfront.platform.search.configurations import configurations, name
from recallfront.sweeps.space import Knobs
from tests.platform.specs import tiny_spec


def found(**knobs: Any) -> list[Knobs]:
    spec = tiny_spec(space=[{"architecture": "window", **knobs}], search={"method": "front", "trials": 5})
    drawn = list(configurations(spec.blocks, np.random.default_rng(0)))
    assert len({name(block, own) for block, own in drawn}) == len(drawn), "each is there once"
    return [own for _, own in drawn]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (
            {"low": 16, "high": 2048, "log": True},
            [16, 22, 31, 42, 58, 81, 111, 154, 213, 294, 406, 562, 776, 1072, 1482, 2048],
        ),
        ({"low": 2, "high": 9, "log": True}, [2, 3, 4, 5, 6, 7, 8, 9]),
        ({"low": 2, "high": 9}, [2, 3, 4, 5, 6, 7, 8, 9]),
        ({"low": 0, "high": 9000}, [600 * at for at in range(16)]),
        ({"low": 0, "high": 8, "step": 4}, [0, 4, 8]),
    ],
)
def test_a_range_of_whole_numbers_is_searched_over_all_of_it(
    ends: dict[str, Any], expected: list[int]
) -> None:
    values = [own["training.warmup_steps"] for own in found(**{"training.warmup_steps": ends})]
    assert values == expected and all(type(value) is int for value in values)


@pytest.mark.parametrize(("rates", "number"), [(91, 1000), (90, 990)])
def test_a_block_of_a_thousand_and_one_loses_one(rates: int, number: int) -> None:
    sizes = list(range(2, 13))
    drawn = found(window_size=sizes, **{"training.learning_rate": [0.001 * at for at in range(1, rates + 1)]})
    assert len(drawn) == number
    each = [sum(own["window_size"] == size for own in drawn) for size in sizes]
    assert min(each) >= rates - 1, "one of 1,001 is missing"
