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
    size, shape = x.size, x.shape[count:]
    if size < _LEAST and x.dtype.itemsize > 2:
        return np.add.reduce(x, 0 if count == 1 else tuple(range(count)))
    loop, n = _SUM[x.dtype], math.prod(shape)
    if loop is None or n == 1 or not (x.flags.c_contiguous and x.flags.aligned):  # one column: numpy adds in pairs
        return reference.sum_leading(np, x, count)
    out = np.empty(shape, x.dtype)
    loop(place(x), place(out), size // n, n)
    return out
