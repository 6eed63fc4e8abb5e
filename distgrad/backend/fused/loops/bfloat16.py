"""float32 to bfloat16 and back, on their bits.

Over C pointers: no array objects, no allocation, nothing that can raise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["from_bfloat16", "to_bfloat16"]

_INF, _SIGN, _QUIET = np.uint32(0x7F800000), np.uint32(0x80000000), np.uint32(0x400000)
_HALF, _ONE, _WIDTH = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)


def to_bfloat16(bits: Any, out: Any, size: int) -> None:
    """Rounded to nearest, ties to even; a carry goes on into the exponent. NaN stays NaN."""
    for i in range(size):
        b = bits[i]
        rounded = b + _HALF + (b >> _WIDTH & _ONE)
        out[i] = (b | _QUIET if (b & ~_SIGN) > _INF else rounded) >> _WIDTH


def from_bfloat16(bits: Any, out: Any, size: int) -> None:
    for i in range(size):
        out[i] = np.uint32(bits[i]) << _WIDTH
