"""What compiled loops may touch in arrays of any number of dimensions, and how a loop is found and called quickly.

A small kernel takes less time than the questions before it: everything here is asked at every call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from ._memory import NAMES
from .native import Loop

__all__ = ["Loops", "dense", "place", "straight", "together"]

_Pointer = ctypes.c_void_p
_HEAD = object.__basicsize__


class Loops(dict[Any, Callable[..., None] | None]):
    """dtype -> a loop for its elements, compiled when first looked up; None where there is none."""

    def __init__(self, family: str, name: str, signature: str) -> None:
        super().__init__()
        self.loop = Loop(family, name, signature)

    def __missing__(self, dtype: Any) -> Callable[..., None] | None:
        found = self[dtype] = self.loop(NAMES.get(dtype))
        return found


def dense(x: Any) -> bool:
    """Whether an array fills its memory, in C's or Fortran's order, and is aligned."""
    flags = x.flags
    return flags.forc and flags.aligned


def together(a: Any, b: Any) -> bool:
    """Whether two arrays have one dtype, one shape and one order, and are dense: they can be walked together."""
    first, second = a.flags, b.flags
    return (a.dtype == b.dtype and a.shape == b.shape and first.aligned and second.aligned
            and ((first.c_contiguous and second.c_contiguous) or (first.f_contiguous and second.f_contiguous)))


def straight(x: Any) -> Any:
    """The array, or a copy of it, in C's order and aligned; never a scalar."""
    flags = x.flags
    if x.__class__ is np.ndarray and flags.c_contiguous and flags.aligned:
        return x
    return np.require(x, requirements="CA")


def _by_field(x: Any) -> Any:
    """Where an array's memory begins, as an argument of a C function; the array must be kept by the caller.

    An object's id is its address, and the pointer to its data is the first field of an array (PyArrayObject in
    numpy's C interface): reading it there takes a tenth of the time of `x.ctypes.data`.
    """
    return _Pointer.from_address(id(x) + _HEAD)


def _by_attribute(x: Any) -> Any:
    return _Pointer(x.ctypes.data)


_probe = np.zeros(1)
place = _by_field if _by_field(_probe).value == _probe.ctypes.data else _by_attribute
