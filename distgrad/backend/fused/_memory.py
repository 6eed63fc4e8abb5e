"""What compiled loops may touch, and its address: one dimension, contiguous, aligned, native float32 or float64."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["NAMES", "address", "addresses", "alike", "element"]

NAMES = {np.dtype(name): name for name in ("float32", "float64")}
_Start = ctypes.c_char * 0


def element(x: Any) -> str | None:
    """The name of an array's dtype, if there are loops for it and it has one dimension."""
    return NAMES.get(x.dtype) if x.ndim == 1 else None


def alike(arrays: Sequence[Any]) -> bool:
    """Whether all have the first one's dtype and size, and can be written as they lie."""
    first = arrays[0]
    return all(x.flags.carray and x.ndim == 1 and x.size == first.size and x.dtype == first.dtype for x in arrays)


def address(x: Any) -> Any:
    """Where an array of at least one element begins, as an argument of a C function; keeps the array alive."""
    if x.flags.writeable:
        return _Start.from_buffer(x)  # a quarter of the time of x.ctypes.data
    return x.ctypes.data_as(ctypes.c_void_p)


def addresses(arrays: Sequence[Any]) -> Any:
    """Where each begins, as a C array of pointers. The arrays have to be kept by the caller."""
    return (ctypes.c_void_p * len(arrays))(*[ctypes.addressof(_Start.from_buffer(x)) if x.flags.writeable
                                             else x.ctypes.data for x in arrays])
