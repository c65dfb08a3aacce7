"""Triton's interpreter, switched on for a while, and what kernels load and store under it.

Triton decides when a kernel is decorated, for the whole process. Here the decorated kernels stay what they
are, and only while `interpreted` lasts a launch (and a call from kernel to kernel) goes to the interpreter: the
order in which test modules are imported does not matter, and nothing is left behind.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.language import core
from triton.runtime import JITFunction
from triton.runtime.interpreter import InterpretedFunction, _patch_lang, interpreter_builder

from recallfront.kernels.report import launches, operators

_LANGUAGE = (tl, core)  # what the interpreter patches: it looks for these two among this module's names


@lru_cache
def _import_kernels() -> None:
    """Decorate every kernel while the interpreter is off, as in a process that never switches it on."""
    for operator in operators():
        launches(operator)


@lru_cache
def _interpreted(function: Callable[..., Any]) -> Any:
    return InterpretedFunction(function)


def _run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    # all of the language, for kernels that a kernel calls too: those of Triton itself know it as `core`
    patches = _patch_lang(_run)
    try:
        _interpreted(self.fn).run(*args, grid=grid, warmup=warmup, **options)
    finally:
        patches.restore()


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    return _interpreted(self.fn).rewrite()(*args, **kwargs)


@contextmanager
def interpreted() -> Iterator[None]:
    """Launches go to Triton's interpreter, on CPU tensors, until the end."""
    _import_kernels()
    with (
        mock.patch.object(JITFunction, "run", _run),
        mock.patch.object(JITFunction, "__call__", _call),
        knobs.runtime.scope(),
        np.errstate(all="ignore"),  # what a GPU does silently numpy warns of: -inf - -inf, overflow in exp
    ):
        knobs.runtime.interpret = True
        yield


@dataclass
class Traffic:
    """Bytes that kernels moved: every lane of a load or store that its mask does not switch off."""

    loaded: int = 0
    stored: int = 0
    _loads: list[np.ndarray[Any, Any]] = field(default_factory=list)
    _stores: list[np.ndarray[Any, Any]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.loaded + self.stored

    def loads(self, tensor: Tensor) -> Tensor:
        """How often each element of a contiguous tensor was loaded, in its shape."""
        return _counts(self._loads, tensor)

    def stores(self, tensor: Tensor) -> Tensor:
        """How often each element of a contiguous tensor was stored, in its shape."""
        return _counts(self._stores, tensor)


def _counts(addresses: list[np.ndarray[Any, Any]], tensor: Tensor) -> Tensor:
    assert tensor.is_contiguous()
    start, size = tensor.data_ptr(), tensor.element_size()
    count = np.zeros(tensor.numel(), dtype=np.int64)
    for chunk in addresses:
        places = (chunk.astype(np.int64) - start) // size
        places = places[(places >= 0) & (places < tensor.numel())]
        count += np.bincount(places, minlength=tensor.numel())
    return torch.from_numpy(count).view(tensor.shape)


@contextmanager
def traffic(*, addresses: bool = False) -> Iterator[Traffic]:
    """Count the bytes that interpreted kernels move; `addresses` keeps where, for `loads` and `stores`."""
    counted = Traffic()
    builder = type(interpreter_builder)
    load, store = builder.create_masked_load, builder.create_masked_store
    exchange, swap = builder.create_atomic_rmw, builder.create_atomic_cas

    def note(pointers: Any, mask: Any, *, stores: bool) -> None:
        live = np.broadcast_to(mask, pointers.data.shape)
        moved = int(np.count_nonzero(live)) * max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
        counted.stored += moved if stores else 0
        counted.loaded += 0 if stores else moved
        if addresses:
            (counted._stores if stores else counted._loads).append(pointers.data[live].ravel())

    def count_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask.data, stores=False)
        return load(self, pointers, mask, *rest)

    def count_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask.data, stores=True)
        return store(self, pointers, value, mask, *rest)

    def count_exchange(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        for stores in (False, True):
            note(pointers, mask.data, stores=stores)
        return exchange(self, operation, pointers, value, mask, *rest)

    def count_swap(self: Any, pointers: Any, *rest: Any) -> Any:
        for stores in (False, True):
            note(pointers, np.True_, stores=stores)
        return swap(self, pointers, *rest)

    with (
        mock.patch.object(builder, "create_masked_load", count_load),
        mock.patch.object(builder, "create_masked_store", count_store),
        mock.patch.object(builder, "create_atomic_rmw", count_exchange),
        mock.patch.object(builder, "create_atomic_cas", count_swap),
    ):
        yield counted
