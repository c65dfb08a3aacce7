"""How many trials fit: a worker is a process, and has its CPUs and GPUs on one node."""

import pytest

from recallfront.platform.cluster.connection import _how_many
from recallfront.platform.errors import UsageError
from recallfront.sweeps.trial import ResourceConfig

FOUR = [{"CPU": 4.0}] * 4


@pytest.mark.parametrize(
    ("asked", "nodes", "fits"),
    [
        ({"cpus": 4}, FOUR, 4),
        ({"cpus": 3}, FOUR, 4),
        ({"cpus": 1}, FOUR, 16),
        ({"cpus": 4, "workers": 2}, FOUR, 2),
        ({"cpus": 3, "workers": 3}, FOUR, 1),
        ({"cpus": 2, "gpus": 1}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], 2),
    ],
)
def test_what_fits(asked: dict[str, int], nodes: list[dict[str, float]], fits: int) -> None:
    assert _how_many(ResourceConfig(**asked), nodes, "here") == fits


@pytest.mark.parametrize(
    ("asked", "nodes", "has"),
    [
        ({"cpus": 8}, FOUR, "has 4 CPU"),
        ({"cpus": 3, "workers": 5}, FOUR, "there is room for 4"),
        ({"cpus": 1, "gpus": 1}, [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 0.5}], "has 1 CPU, 0.5 GPU"),
        ({"cpus": 1}, [], "has 0 CPU"),
    ],
)
def test_what_never_fits_is_refused_with_what_the_largest_node_has(
    asked: dict[str, int], nodes: list[dict[str, float]], has: str
) -> None:
    with pytest.raises(UsageError, match=has):
        _how_many(ResourceConfig(**asked), nodes, "the largest node")
