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
    """The function with autocast off while it runs: it says itself in which type something is summed.

    Autograd's steps back run under the autocast of whoever calls `backward`. Within float16's they would overflow, so
    that is an error; PyTorch's documentation asks for the call outside as well.
    """

    @wraps(function)
    def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        for given in (*arguments, *keywords.values()):
            if isinstance(given, Tensor):
                kind = given.device.type
                if kind in _CASTING and torch.is_autocast_enabled(kind):
                    narrow = torch.get_autocast_dtype(kind) is torch.float16
                    with torch.autocast(kind, enabled=False):
                        found = function(*arguments, **keywords)
                    if narrow:
                        _refuse_backward_within(kind, found)
                    return found
                break
        return function(*arguments, **keywords)

    return run


def _refuse_backward_within(kind: str, found: object) -> None:
    def check(_: Tensor) -> None:
        if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16:
            raise RuntimeError(
                "backward() within torch.autocast of float16: gradients would overflow; call it after the `with` block"
            )

    for tensor in found if isinstance(found, tuple) else (found,):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            tensor.register_hook(check)
