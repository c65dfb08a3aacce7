"""How long and from which seed to attack: `make attack SECONDS=600 SEED=1`; `make test` always does the same."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """However long attacks take that are asked to go on: no test of them hangs."""
    if "ATTACK_SECONDS" in os.environ:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(scope="session")
def seconds() -> float | None:
    """How long each kind of attack goes on; None is its shortest."""
    given = os.environ.get("ATTACK_SECONDS")
    return float(given) if given else None


@pytest.fixture(scope="session")
def seed() -> int:
    return int(os.environ.get("ATTACK_SEED") or 0)
