"""bfloat16 as the upper half of float32's bits, in one pass each way."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import bfloat16 as reference
from ._dense import Loops, place

__all__ = ["from_bfloat16", "to_bfloat16"]

_TO = Loops("bfloat16", "to_bfloat16", "WHn")
_FROM = Loops("bfloat16", "from_bfloat16", "HWn")
_BITS = np.dtype(np.uint16)


def _loop(loops: Loops, numbers: Any, bits: Any) -> Any:
    """The loop between these arrays; None if they are not for it."""
    fits = numbers.dtype == np.float32 and bits.dtype == _BITS and numbers.flags.c_contiguous \
        and bits.flags.c_contiguous and numbers.flags.aligned and bits.flags.aligned and numbers.size == bits.size
    return loops[numbers.dtype] if fits else None


def to_bfloat16(x: Any, out: Any) -> None:
    """As the reference, with the same bits. Compiled for float32."""
    loop = _loop(_TO, x, out)
    if loop is None:
        reference.to_bfloat16(np, x, out)
    else:
        loop(place(x), place(out), x.size)


def from_bfloat16(bits: Any, out: Any) -> None:
    """As the reference, with the same bits. Compiled for float32."""
    loop = _loop(_FROM, out, bits)
    if loop is None:
        reference.from_bfloat16(np, bits, out)
    else:
        loop(place(bits), place(out), out.size)
