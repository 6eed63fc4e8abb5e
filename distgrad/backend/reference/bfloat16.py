"""bfloat16 on arrays that have no such dtype: its bits are the upper half of float32's, kept as uint16.

They are written in pieces small enough that temporaries stay in cache. Who sends them, and why, is not known here.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel

__all__ = ["from_bfloat16", "to_bfloat16"]

_PIECE = 16384  # elements worked on at a time
_QUIET = 0x0040  # a bit of every NaN's fraction: what is cut off may have held all of the others


@kernel
def to_bfloat16(xp: Any, x: Any, out: Any) -> None:
    """Write x as bfloat16: rounded to nearest, ties to even; too large becomes Inf. NaN stays NaN, Inf stays Inf.

    Args:
        x: real floating numbers of one dimension; float64 is rounded to float32 on the way.
        out: uint16, of the same length.
    """
    for begin in range(0, x.size, _PIECE):
        part = slice(begin, begin + _PIECE)
        with xp.errstate(over="ignore"):
            values = x[part].astype("float32", copy=False)
        bits = values.view("uint32")
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF  # half of what is cut off, less one where the kept part is even
        rounded += bits  # a carry goes on into the exponent, and out of the largest one into infinity
        rounded >>= 16
        nan = values != values
        if nan.any():
            rounded[nan] = bits[nan] >> 16 | _QUIET
        out[part] = rounded


@kernel
def from_bfloat16(xp: Any, bits: Any, out: Any) -> None:
    """Write the values of uint16 bfloat16 `bits` to `out`, real floating numbers; exact but for float16."""
    for begin in range(0, bits.size, _PIECE):
        part = slice(begin, begin + _PIECE)
        values = bits[part].astype("uint32")
        values <<= 16
        with xp.errstate(over="ignore", invalid="ignore"):
            out[part] = values.view("float32")
