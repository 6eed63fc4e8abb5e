"""The largest element and the mean of each window, and the ways back of their gradients, in one pass each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference import pool as reference
from ._dense import Loops, place, straight

__all__ = ["avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward"]

_FORWARD = Loops("pool", "max_pool2d", "TTNnnnnnnnnnnnnn")
_BACKWARD = Loops("pool", "max_pool2d_backward", "TNTnnn")
_MEANS = Loops("pool", "avg_pool2d", "TTT" + "n" * 11)
_SHARES = Loops("pool", "avg_pool2d_backward", "TTTT" + "n" * 11)
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


def max_pool2d_backward(g: Any, where: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair,
                        dilation: Pair) -> Any:
    """As the reference: g added up at the winners' places, (N, C, *size). Sums of windows that share a winner are
    made in g's dtype, so they may differ by its rounding."""
    loop = _BACKWARD[g.dtype] if g.size and where.dtype == _PLACE and where.shape == g.shape else None
    if loop is None:
        return reference.max_pool2d_backward(np, g, where, size, kernel_size, stride, padding, dilation)
    g, where = straight(g), straight(where)
    n, c = g.shape[:2]
    gx = np.empty((n, c, *size), g.dtype)
    loop(place(g), place(where), place(gx), n * c, math.prod(g.shape[2:]), math.prod(size))
    return gx


def _sizes(size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair, include_pad: bool,
           divisor: int | None, dtype: Any) -> Any:
    """What the sum of each window is divided by, (oh, ow)."""
    found = reference.counts(np, size, kernel_size, stride, padding, out, include_pad, divisor, dtype)
    return np.ascontiguousarray(np.broadcast_to(np.asarray(found, dtype), out))


def avg_pool2d(x: Any, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair, include_pad: bool,
               divisor: int | None) -> Any:
    """As the reference, with the same bits: the mean of each window of x (N, C, H, W)."""
    loop = _MEANS[x.dtype] if x.size and min(out) > 0 else None
    if loop is None:
        return reference.avg_pool2d(np, x, kernel_size, stride, padding, out, include_pad, divisor)
    x = straight(x)
    n, c, h, w = x.shape
    sizes = _sizes((h, w), kernel_size, stride, padding, out, include_pad, divisor, x.dtype)
    y = np.empty((n, c, *out), x.dtype)
    loop(place(x), place(y), place(sizes), n * c, h, w, *out, *kernel_size, *stride, *padding)
    return y


def avg_pool2d_backward(g: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair,
                        include_pad: bool, divisor: int | None) -> Any:
    """As the reference, with the same bits: the adjoint of avg_pool2d."""
    loop = _SHARES[g.dtype] if g.size else None
    if loop is None:
        return reference.avg_pool2d_backward(np, g, size, kernel_size, stride, padding, out, include_pad, divisor)
    g = straight(g)
    sizes = _sizes(size, kernel_size, stride, padding, out, include_pad, divisor, g.dtype)
    gx, share = np.empty((*g.shape[:2], *size), g.dtype), np.empty(out, g.dtype)
    loop(place(g), place(gx), place(sizes), place(share), math.prod(g.shape[:2]), *size, *out, *kernel_size, *stride,
         *padding)
    return gx
