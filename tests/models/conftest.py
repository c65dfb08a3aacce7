"""One thread: the operations are small, and the machine is shared."""

from typing import Any

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)


# Where every boundary lies is each mixer's own affair: a hybrid shows with a few lengths that its mixers go together.
_OF_HYBRIDS = {"length": {4, 11}, "first": {6}, "second": {9}}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = [item for item in items if _is_too_much(getattr(item, "callspec", None))]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]


def _is_too_much(callspec: Any) -> bool:
    """Whether a test of a hybrid is at a length that is left to its mixers' own cases."""
    if callspec is None or not str(callspec.params.get("config", "")).startswith("hybrid-"):
        return False
    return any(callspec.params.get(name, next(iter(few))) not in few for name, few in _OF_HYBRIDS.items())
