"""Kernels with one block of threads for each row: softmax and its losses."""

from __future__ import annotations

from typing import Any

import cupy

from .launch import fits, over_rows, plain

__all__ = ["cross_entropy", "cross_entropy_backward", "log_softmax", "log_softmax_backward", "softmax",
           "softmax_backward"]


_MOST = 1 << 16  # elements that one block sums up sooner than several


def _last(x: Any, dim: int) -> bool:
    return bool(x.size) and dim % x.ndim == x.ndim - 1


def _forward(name: str, x: Any, dim: int) -> Any:
    if not (_last(x, dim) and fits(x)):
        return plain(name, x)(x, dim)
    y, n = cupy.empty_like(x), x.shape[-1]
    over_rows("softmax", x.dtype, x.size // n, n, x, y, n, name == "log_softmax")
    return y


def _backward(name: str, g: Any, y: Any, dim: int) -> Any:
    if not (_last(y, dim) and g.shape == y.shape and fits(g, y)):
        return plain(f"{name}_backward", y)(g, y, dim)
    gx, n = cupy.empty_like(y), y.shape[-1]
    over_rows("softmax_backward", y.dtype, y.size // n, n, g, y, gx, n, name == "log_softmax")
    return gx


def softmax(x: Any, dim: int) -> Any:
    return _forward("softmax", x, dim)


def log_softmax(x: Any, dim: int) -> Any:
    return _forward("log_softmax", x, dim)


def softmax_backward(g: Any, y: Any, dim: int) -> Any:
    return _backward("softmax", g, y, dim)


def log_softmax_backward(g: Any, y: Any, dim: int) -> Any:
    return _backward("log_softmax", g, y, dim)


# -- losses over classes

def _total(a: Any, b: Any = None) -> Any:
    """The sum of a, divided by that of b if given."""
    if a.size > _MOST:
        return a.sum() if b is None else a.sum() / b.sum()
    out = cupy.empty((), a.dtype)
    over_rows("total", a.dtype, 1, a.size, a, b, a.size, out)
    return out


def cross_entropy(x: Any, target: Any, weight: Any, ignore_index: int, smoothing: float,
                  reduction: str) -> tuple[Any, Any, Any, Any, Any]:
    """As the reference; a target that is no class makes the loss NaN, for asking would mean to wait."""
    if smoothing or not x.size or not fits(x, weight):
        return plain("cross_entropy", x)(x, target, weight, ignore_index, smoothing, reduction)
    rows, classes = x.shape
    losses, s, r = (cupy.empty(rows, x.dtype) for _ in range(3))
    e, safe = cupy.empty_like(x), cupy.empty(rows, "int64")
    over_rows("cross_entropy", x.dtype, rows, classes, x, cupy.ascontiguousarray(target, "int64"), weight, classes,
              ignore_index, losses, e, s, safe, r)
    loss = losses if reduction == "none" else _total(losses, r if reduction == "mean" else None)
    return loss, e, s, safe, r


def cross_entropy_backward(g: Any, e: Any, s: Any, safe: Any, r: Any, target: Any, weight: Any, ignore_index: int,
                           smoothing: float, reduction: str) -> Any:
    if smoothing or not e.size or not fits(g, e, s, r):
        return plain("cross_entropy_backward", e)(g, e, s, safe, r, target, weight, ignore_index, smoothing, reduction)
    rows, classes = e.shape
    gx = cupy.empty_like(e)
    target, norm = cupy.ascontiguousarray(target, "int64"), _total(r) if reduction == "mean" else None
    over_rows("cross_entropy_backward", e.dtype, rows, classes, g, g.size == rows and reduction == "none", norm, e, s,
              safe, r, target, classes, ignore_index, gx)
    return gx
