"""Logic over complex numbers, which are true where they are not 0: cupy's functions take none."""

from __future__ import annotations

from typing import Any

import cupy

__all__ = ["logical_and", "logical_not", "logical_or", "logical_xor"]


def _true(x: Any) -> Any:
    return x != 0 if getattr(x, "dtype", None) in ("complex64", "complex128") else x


def logical_and(x: Any, y: Any) -> Any:
    return cupy.logical_and(_true(x), _true(y))


def logical_or(x: Any, y: Any) -> Any:
    return cupy.logical_or(_true(x), _true(y))


def logical_xor(x: Any, y: Any) -> Any:
    return cupy.logical_xor(_true(x), _true(y))


def logical_not(x: Any) -> Any:
    return cupy.logical_not(_true(x))
