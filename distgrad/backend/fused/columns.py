"""Sums over leading dimensions in one pass over memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference import columns as reference
from ._dense import Loops, place

__all__ = ["sum_leading"]

_SUM = Loops("columns", "sum_rows", "TTnn")
_LEAST = 2048  # elements from which on a loop sums sooner than numpy


def sum_leading(x: Any, count: int) -> Any:
    """As the reference: the sum over the first `count` dimensions, in an order that the shape alone decides."""
    size = x.size
    loop = _SUM[x.dtype] if size >= _LEAST else None
    if loop is None or not (x.flags.c_contiguous and x.flags.aligned):
        return reference.sum_leading(np, x, count)
    shape = x.shape[count:]
    n = math.prod(shape)
    if n == 1:  # numpy adds in pairs
        return reference.sum_leading(np, x, count)
    out = np.empty(shape, x.dtype)
    loop(place(x), place(out), size // n, n)
    return out
