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


@contextmanager
def poisoned() -> Iterator[None]:
    """Whatever Python code gets from `torch.empty` and its relatives is NaN, or the largest integer."""
    with ExitStack() as stack:
        for owner, name in [
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (Tensor, "new_empty"),
        ]:
            stack.enter_context(mock.patch.object(owner, name, _poisoning(getattr(owner, name))))
        yield
