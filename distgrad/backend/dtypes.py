"""Element types: torch's names for numpy dtypes, their categories, and the default.

`float32` and its kin are plain `numpy.dtype` objects, so they mean the same to numpy and cupy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .._typing import DType

__all__ = ["NAMES", "category", "complex_of", "dtype_of", "finfo", "get_default_dtype", "iinfo", "promote_types",
           "set_default_dtype"]

NAMES: dict[str, DType] = {
    name: np.dtype(kind) for name, kind in {
        "bool": "bool", "uint8": "uint8", "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
        "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
        "float16": "float16", "float32": "float32", "float64": "float64",
        "complex64": "complex64", "complex128": "complex128",
        "half": "float16", "float": "float32", "double": "float64", "short": "int16", "int": "int32",
        "long": "int64", "cfloat": "complex64", "cdouble": "complex128",
    }.items()
}
_RANK = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}


_default: DType = np.dtype("float32")


def get_default_dtype() -> DType:
    """The dtype of floating tensors made from Python numbers; float32 unless set."""
    return _default


def set_default_dtype(dtype: Any) -> None:
    """Set the default, for all threads.

    Raises:
        TypeError: not a real floating dtype.
    """
    global _default
    found = np.dtype(dtype)
    if found.kind != "f":
        raise TypeError(f"the default dtype is a real floating one, got {found}")
    _default = found


def category(dtype: DType) -> int:
    """0 bool, 1 integer, 2 floating, 3 complex.

    Raises:
        TypeError: an element type that tensors do not have (objects, strings, dates).
    """
    try:
        return _RANK[dtype.kind]
    except KeyError:
        raise TypeError(f"tensors have no element type {dtype}") from None


@lru_cache(maxsize=256)
def promote_types(a: DType, b: DType) -> DType:
    """The smallest dtype that holds both, where a category above wins without widening."""
    a, b = np.dtype(a), np.dtype(b)
    ra, rb = category(a), category(b)
    if ra == rb or (ra >= 2 and rb >= 2):
        return np.promote_types(a, b)
    if max(ra, rb) >= 2:
        return a if ra > rb else b
    return np.promote_types(a, b)


def complex_of(dtype: DType) -> DType:
    """The complex dtype whose parts have this floating dtype."""
    return np.dtype("complex128") if dtype == np.float64 else np.dtype("complex64")


def dtype_of(value: Any) -> DType:
    """A dtype from a dtype, a numpy type or a name; None passes.

    Raises:
        TypeError: not the name of a dtype that tensors have.
    """
    if value is None:
        return None
    if isinstance(value, str) and value in NAMES:
        return NAMES[value]
    if value is float:
        return get_default_dtype()
    found = np.dtype(value)
    category(found)
    return found


finfo = np.finfo
iinfo = np.iinfo
