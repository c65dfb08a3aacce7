"""Triton's language with less bookkeeping: the interpreter makes every shape and every type anew for each value."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
from triton.language import core
from triton.runtime import interpreter

_get_np_dtype = interpreter._get_np_dtype
_make_block_type = core.block_type.__init__


@lru_cache
def _constants(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """The shape of a value as constants, and its number of elements."""
    return core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(math.prod(sizes))


def _make_tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _constants(tuple(type.shape.values) if type.is_block() else ())


# by name of the element's type, which says all
_BLOCKS: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}


def _make_block_type_once(self: Any, element_ty: Any, shape: Any) -> None:
    sizes = tuple(size.value if isinstance(size, core.constexpr) else size for size in shape)
    known = _BLOCKS.get((element_ty.name, sizes))
    if known is None:
        _make_block_type(self, element_ty, list(sizes))
        _BLOCKS[element_ty.name, sizes] = dict(vars(self))
    else:
        vars(self).update(known)


@lru_cache
def _np_scalar(kind: Any) -> "np.dtype[Any]":
    found: np.dtype[Any] = _get_np_dtype(kind)
    return found


def _np_dtype(kind: Any) -> "np.dtype[Any]":
    element = kind.element_ty if isinstance(kind, core.block_type) else kind
    return np.dtype(np.uint64) if isinstance(element, core.pointer_type) else _np_scalar(element)


@contextmanager
def quicker() -> Iterator[None]:
    """Shapes and types are made once each, until the end."""
    with ExitStack() as stack:
        for owner, name, replacement in (
            (core.tensor, "__init__", _make_tensor),
            (core.block_type, "__init__", _make_block_type_once),
            (interpreter, "_get_np_dtype", _np_dtype),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield
