"""Memory that has not been written is NaN, so that a lane which a kernel forgets fails its test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor


def _poisoning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        made = make(*args, **kwargs)
        if made.is_floating_point() or made.is_complex():
            return made.fill_(float("nan"))
        return made if made.dtype == torch.bool else made.fill_(torch.iinfo(made.dtype).max)

    return poisoned


_MADE_BY = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (Tensor, "new_empty")]
_CLEAN = [getattr(owner, name) for owner, name in _MADE_BY]


@contextmanager
def unpoisoned() -> Iterator[None]:
    """Memory as it comes, for tensors so large that only the pages which are used may be touched."""
    with ExitStack() as stack:
        for (owner, name), make in zip(_MADE_BY, _CLEAN, strict=True):
            stack.enter_context(mock.patch.object(owner, name, make))
        yield


@contextmanager
def poisoned() -> Iterator[None]:
    """Whatever Python code gets from `torch.empty` and its relatives is NaN, or the largest integer."""
    with ExitStack() as stack:
        for owner, name in _MADE_BY:
            stack.enter_context(mock.patch.object(owner, name, _poisoning(getattr(owner, name))))
        yield
