"""The largest element of each window, and the way back of its gradient, in one pass each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference import pool as reference
from ._dense import Loops, place, straight

__all__ = ["max_pool2d", "max_pool2d_backward"]

_FORWARD = Loops("pool", "max_pool2d", "TTNnnnnnnnnnnnnn")
_BACKWARD = Loops("pool", "max_pool2d_backward", "TNTnnn")
_PLACE = np.dtype(np.int64)

Pair = tuple[int, int]


def max_pool2d(x: Any, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> tuple[Any, Any]:
    """As the reference, with the same values: the maximum of each window of x (N, C, H, W), and its place."""
    loop = _FORWARD[x.dtype] if x.size and min(out) > 0 else None
    if loop is None:
        return reference.max_pool2d(np, x, kernel_size, stride, padding, dilation, out)
    x = straight(x)
    n, c, h, w = x.shape
    y, where = np.empty((n, c, *out), x.dtype), np.empty((n, c, *out), _PLACE)
    loop(place(x), place(y), place(where), n * c, h, w, *out, *kernel_size, *stride, *padding, *dilation)
    return y, where


def max_pool2d_backward(g: Any, where: Any, size: Pair) -> Any:
    """As the reference: g added up at the winners' places, (N, C, *size). Sums of windows that share a winner are
    made in g's dtype, so they may differ by its rounding."""
    loop = _BACKWARD[g.dtype] if g.size and where.dtype == _PLACE and where.shape == g.shape else None
    if loop is None:
        return reference.max_pool2d_backward(np, g, where, size)
    g, where = straight(g), straight(where)
    n, c = g.shape[:2]
    gx = np.empty((n, c, *size), g.dtype)
    loop(place(g), place(where), place(gx), n * c, math.prod(g.shape[2:]), math.prod(size))
    return gx
