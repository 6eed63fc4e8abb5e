"""Compiling and calling the kernels of `source`: one module of code for each family and element type."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import cupy
import numpy as np

from ...base import of
from ...reference import find
from . import source

__all__ = ["add_family", "fits", "kernel", "over_lines", "over_rows", "plain"]

_TYPES = {np.dtype("float32"): "float", np.dtype("float64"): "double"}
_FAMILIES: dict[str, Callable[[], str]] = {
    "rows": lambda: source.ROWS, "lines": lambda: source.LINES + source.elementwise(),
    "recurrent": lambda: source.RECURRENT,
}
_THREADS = 256  # of a block that goes over lines
_WIDEST = 1024  # threads of a block; its shared memory has a place for each
_BLOCKS = 1 << 16


def add_family(name: str, code: str) -> None:
    """Make the kernels of a module known, as CUDA C++ that follows the header."""
    _FAMILIES[name] = lambda: code


@cache
def _module(family: str, element: str) -> Any:
    code = f"#define T {element}\n" + source.HEADER + _FAMILIES[family]()
    return cupy.RawModule(code=code, options=("--std=c++17",))


@cache
def kernel(family: str, name: str, dtype: Any) -> Any:
    """A compiled kernel for elements of `dtype`."""
    return _module(family, _TYPES[dtype]).get_function(name)


def fits(*arrays: Any) -> bool:
    """Whether kernels can take these arrays (None passes): float32 or float64, all alike, each whole in memory."""
    given = [a for a in arrays if a is not None]
    first = given[0].dtype
    return first in _TYPES and all(a.dtype == first and a.flags.c_contiguous for a in given)


def _number(dtype: Any, value: Any) -> Any:
    """An argument as a kernel takes it: floats in the element type, ints as I unless they are flags."""
    if value is None:
        return np.uintp(0)
    if isinstance(value, bool):
        return np.int32(value)
    if isinstance(value, int):
        return np.int64(value)
    return dtype.type(value) if isinstance(value, float) else value


def over_lines(family: str, name: str, dtype: Any, count: int, *args: Any) -> None:
    """Run a kernel with a thread for each of `count` elements."""
    if count:
        blocks = min(-(-count // _THREADS), _BLOCKS)
        kernel(family, name, dtype)((blocks,), (_THREADS,), tuple([_number(dtype, a) for a in args]))


def over_rows(name: str, dtype: Any, rows: int, width: int, *args: Any) -> None:
    """Run a kernel with a block for each row."""
    if rows:
        threads = 32
        while threads < min(width, _WIDEST):
            threads *= 2
        kernel("rows", name, dtype)((rows,), (threads,), tuple([_number(dtype, a) for a in args]))


def plain(name: str, x: Any) -> Callable[..., Any]:
    """The reference kernel over the namespace of x's device."""
    return partial(find(name), of(x).xp)
