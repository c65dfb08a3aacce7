"""Operators under torch.autocast, which casts matrix products wherever they stand, sums of a state included."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

_CASTING = ("cpu", "cuda")  # devices that run models here and have an autocast


def outside_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """The function with autocast off while it runs: it says itself in which type something is summed."""

    @wraps(function)
    def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        for given in (*arguments, *keywords.values()):
            if isinstance(given, Tensor):
                kind = given.device.type
                if kind in _CASTING and torch.is_autocast_enabled(kind):
                    with torch.autocast(kind, enabled=False):
                        return function(*arguments, **keywords)
                break
        return function(*arguments, **keywords)

    return run
