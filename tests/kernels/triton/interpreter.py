"""Triton's interpreter, switched on for a while, and what kernels load and store under it.

Triton decides when a kernel is decorated, for the whole process. Here the decorated kernels stay what they
are, and only while `interpreted` lasts a launch (and a call from kernel to kernel) goes to the interpreter: the
order in which test modules are imported does not matter, and nothing is left behind.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.language import core
from triton.runtime import JITFunction
from triton.runtime.interpreter import (
    InterpretedFunction,
    InterpreterBuilder,
    ScanOps,
    TensorHandle,
    _implicit_cvt,
    _patch_lang,
    interpreter_builder,
)

from recallfront.kernels.gpu.report import operators_with_kernels
from tests.kernels.triton.quicker import quicker

_LANGUAGE = (tl, core)  # what the interpreter patches: it looks for these two among this module's names


@lru_cache
def _import_kernels() -> None:
    """Decorate every kernel while the interpreter is off, as in a process that never switches it on."""
    for operator in operators_with_kernels():
        with suppress(Exception):  # then the operator's own tests say so
            import_module(f"recallfront.kernels.{operator}.triton")


@lru_cache
def _interpreted(function: Callable[..., Any]) -> Any:
    return InterpretedFunction(function)


def _scan_rows(self: ScanOps, inputs: tuple[Any, ...]) -> list[Any]:
    """A scan with any combination, a call a row; the interpreter's own makes a call an element."""
    rows = [np.moveaxis(given.handle.data, self.axis, 0) for given in inputs]
    types = [given.dtype for given in inputs]
    outputs = [np.empty_like(row) for row in rows]
    before: tuple[Any, ...] | None = None
    for place in range(rows[0].shape[0]):
        here = tuple(self.to_tensor(row[place], kind) for row, kind in zip(rows, types, strict=True))
        before = here if before is None else self.combine_fn.fn(*before, *here)
        before = before if isinstance(before, tuple) else (before,)
        for output, value in zip(outputs, before, strict=True):
            output[place] = value.handle.data.reshape(output[place].shape)
    turned = [np.ascontiguousarray(np.moveaxis(output, 0, self.axis)) for output in outputs]
    return [self.to_tensor(output, kind) for output, kind in zip(turned, types, strict=True)]


_cast = InterpreterBuilder.cast_impl


def _cast_bfloat16(self: InterpreterBuilder, source: Any, target: Any) -> Any:
    """Rounds to the nearest bfloat16, as a GPU does; the interpreter's own cuts the low bits off."""
    kinds = source.dtype.scalar, target.scalar
    if kinds == (tl.float32, tl.bfloat16):
        data = np.ascontiguousarray(source.data)
        narrow = torch.from_numpy(data).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return TensorHandle(narrow.reshape(source.data.shape), tl.bfloat16)
    if kinds == (tl.bfloat16, tl.float32):
        return TensorHandle(_wide(source), tl.float32)
    return _cast(self, source, target)


def _splat(self: InterpreterBuilder, block: Any, handle: Any) -> Any:
    """A scalar everywhere; the interpreter's own makes a number of a truth."""
    return TensorHandle(
        np.full(block.shape, handle.data.ravel()[0], dtype=handle.data.dtype), handle.dtype.scalar
    )


def _wide(handle: Any) -> Any:
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data.astype(np.float32)


def _dot(self: InterpreterBuilder, a: Any, b: Any, total: Any, *precision: Any) -> Any:
    """Products of numbers, summed in float32; the interpreter's own multiplies the bit patterns of bfloat16."""
    return TensorHandle(np.matmul(_wide(a), _wide(b)) + total.data, total.dtype.scalar)


_programs: list[tuple[int, int, int]] = []  # those that run; none named: all


def _run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    """Run the programs one after another, on the tensors' own memory (the interpreter's executor copies it)."""
    function = _interpreted(self.fn).rewrite()
    named = inspect.signature(self.fn).parameters
    given = inspect.getcallargs(
        function, *args, **{name: value for name, value in options.items() if name in named}
    )
    converted = {
        name: value if "constexpr" in str(named[name].annotation) else _implicit_cvt(value)
        for name, value in given.items()
    }
    sizes = (*(grid(converted) if callable(grid) else grid), 1, 1)[:3]
    # all of the language, for kernels that a kernel calls too: those of Triton itself know it as `core`
    patches = _patch_lang(_run)
    interpreter_builder.set_grid_dim(*sizes)
    try:
        for program in _programs or itertools.product(*map(range, sizes)):
            assert all(place < size for place, size in zip(program, sizes, strict=True))
            interpreter_builder.set_grid_idx(*program)
            function(**converted)
    finally:
        patches.restore()


@contextmanager
def only_programs(*programs: tuple[int, int, int]) -> Iterator[None]:
    """Of every launch only these programs run: what a test of 2^31 elements has the time for."""
    _programs.extend(programs)
    try:
        yield
    finally:
        _programs.clear()


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    return _interpreted(self.fn).rewrite()(*args, **kwargs)


@contextmanager
def interpreted() -> Iterator[None]:
    """Launches go to Triton's interpreter, on CPU tensors, until the end."""
    _import_kernels()
    with (
        mock.patch.object(JITFunction, "run", _run),
        mock.patch.object(JITFunction, "__call__", _call),
        mock.patch.object(ScanOps, "generic_scan", _scan_rows),
        mock.patch.object(InterpreterBuilder, "cast_impl", _cast_bfloat16),
        mock.patch.object(InterpreterBuilder, "create_dot", _dot),
        mock.patch.object(InterpreterBuilder, "create_splat", _splat),
        quicker(),
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
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    exchange, swap = InterpreterBuilder.create_atomic_rmw, InterpreterBuilder.create_atomic_cas

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
        mock.patch.object(InterpreterBuilder, "create_masked_load", count_load),
        mock.patch.object(InterpreterBuilder, "create_masked_store", count_store),
        mock.patch.object(InterpreterBuilder, "create_atomic_rmw", count_exchange),
        mock.patch.object(InterpreterBuilder, "create_atomic_cas", count_swap),
    ):
        yield counted
