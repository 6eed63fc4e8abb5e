"""Whole quotients and remainders of floats as numpy and torch have them.

cupy takes floor(x / y), whose rounding makes 1 // 0.1 ten and its remainder 0; they are 9 and just below 0.1.
"""

from __future__ import annotations

from typing import Any

import cupy

__all__ = ["floor_divide", "remainder"]


def _floats(x: Any, y: Any) -> bool:
    return bool((x if isinstance(x, cupy.ndarray) else y).dtype.kind == "f")


def _left(x: Any, y: Any) -> tuple[Any, Any]:
    """What is left with the sign of x, and where that is not the sign of y."""
    left = cupy.fmod(x, y)
    return left, (left != 0) & ((left < 0) != (y < 0))


def remainder(x: Any, y: Any) -> Any:
    """x - floor(x / y) * y, with the sign of y."""
    if not _floats(x, y):
        return cupy.remainder(x, y)
    left, other_side = _left(x, y)
    return cupy.where(other_side, left + y, cupy.copysign(left, y))


def floor_divide(x: Any, y: Any) -> Any:
    """floor(x / y) of the exact quotient."""
    if not _floats(x, y):
        return cupy.floor_divide(x, y)
    quotient = x / y
    if not isinstance(y, cupy.ndarray) and y == 0:
        return quotient
    left, other_side = _left(x, y)
    whole = (x - left) / y - other_side  # a whole number but for its rounding
    low = cupy.floor(whole)
    low = cupy.copysign(low + (whole - low > 0.5), quotient)
    return cupy.where(y == 0, quotient, low) if isinstance(y, cupy.ndarray) else low
