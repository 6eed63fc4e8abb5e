"""Compiling and calling kernels: one module of code for each family and element type."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import cupy
import numpy as np

from ...base import of
from ...reference import find
from . import source

__all__ = ["ELEMENTS", "add_family", "code_of", "families", "fits", "kernel", "on_blocks", "over_lines", "over_rows",
           "plain", "steps_over"]

ELEMENTS = {np.dtype("float32"): "float", np.dtype("float64"): "double"}
_FAMILIES = {"rows": source.ROWS, "lines": source.LINES + source.elementwise()}
_THREADS = 256  # of a block that goes over lines
_FEW = 128  # of one that goes over a step: more blocks, for there is little to do
_WIDEST = 1024  # threads of a block; its shared memory has a place for each
_BLOCKS = 1 << 16


def add_family(name: str, code: str) -> None:
    """Make the kernels of a module known, as CUDA C++ that follows the header."""
    _FAMILIES[name] = code


def families() -> list[str]:
    """The names of those that are known."""
    return list(_FAMILIES)


def code_of(family: str, element: str) -> str:
    """All of the code of a family for `float` or `double`."""
    return f"#define T {element}\n{source.HEADER}{_FAMILIES[family]}"


@cache
def _module(family: str, element: str) -> Any:
    return cupy.RawModule(code=code_of(family, element), options=("--std=c++17",))


@cache
def kernel(family: str, name: str, dtype: Any) -> Any:
    """A compiled kernel for elements of `dtype`."""
    return _module(family, ELEMENTS[dtype]).get_function(name)


def fits(*arrays: Any) -> bool:
    """Whether kernels can take these arrays (None passes): float32 or float64, all alike, each whole in memory."""
    given = [a for a in arrays if a is not None]
    first = given[0].dtype
    return first in ELEMENTS and all(a.dtype == first and a.flags.c_contiguous for a in given)


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
        on_blocks(family, name, dtype, min(-(-count // _THREADS), _BLOCKS), *args)


def on_blocks(family: str, name: str, dtype: Any, blocks: int, *args: Any) -> None:
    """Run a kernel on so many blocks of 256 threads."""
    kernel(family, name, dtype)((blocks,), (_THREADS,), tuple([_number(dtype, a) for a in args]))


def steps_over(family: str, name: str, dtype: Any, count: int, *args: Any) -> Callable[[Any], None]:
    """A call that runs a kernel with a thread for each of `count` elements, prepared for many: its last argument, the
    number of a step, is all that changes."""
    launch, fixed = kernel(family, name, dtype), tuple([_number(dtype, a) for a in args])
    grid, block = (min(-(-count // _FEW), _BLOCKS),), (_FEW,)
    return lambda t: launch(grid, block, (*fixed, t))


def over_rows(name: str, dtype: Any, rows: int, width: int, *args: Any, family: str = "rows") -> None:
    """Run a kernel with a block for each row, as wide as the row or as a block can be."""
    if rows:
        threads = 32
        while threads < min(width, _WIDEST):
            threads *= 2
        kernel(family, name, dtype)((rows,), (threads,), tuple([_number(dtype, a) for a in args]))


def plain(name: str, x: Any) -> Callable[..., Any]:
    """The reference kernel over the namespace of x's device."""
    return partial(find(name), of(x).xp)
