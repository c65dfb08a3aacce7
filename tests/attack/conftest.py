"""How long and from which seed to attack: `make attack SECONDS=600 SEED=1`; `make test` always does the same."""

import os

import pytest


@pytest.fixture(scope="session")
def seconds() -> float | None:
    """How long each kind of attack goes on; None is its shortest."""
    given = os.environ.get("ATTACK_SECONDS")
    return float(given) if given else None


@pytest.fixture(scope="session")
def seed() -> int:
    return int(os.environ.get("ATTACK_SEED") or 0)
