"""Kernels with one block of threads for each row: softmax and its losses, norms within a sample."""

from __future__ import annotations

import math
from typing import Any

import cupy

from .launch import fits, over_rows, plain

__all__ = ["cross_entropy", "cross_entropy_backward", "log_softmax", "log_softmax_backward", "normalize",
           "normalize_backward", "softmax", "softmax_backward"]


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
    loss = losses if reduction == "none" else losses.sum() / r.sum() if reduction == "mean" else losses.sum()
    return loss, e, s, safe, r


def cross_entropy_backward(g: Any, e: Any, s: Any, safe: Any, r: Any, target: Any, weight: Any, ignore_index: int,
                           smoothing: float, reduction: str) -> Any:
    if smoothing or not e.size or not fits(g, e, s, r):
        return plain("cross_entropy_backward", e)(g, e, s, safe, r, target, weight, ignore_index, smoothing, reduction)
    rows, classes = e.shape
    gx = cupy.empty_like(e)
    over_rows("cross_entropy_backward", e.dtype, rows, classes, g, g.size == rows and reduction == "none",
              r.sum() if reduction == "mean" else None, e, s, safe, r, cupy.ascontiguousarray(target, "int64"), classes,
              ignore_index, gx)
    return gx


# -- norms within a sample

def _width(shape: tuple[int, ...], axes: tuple[int, ...], affine: tuple[int, ...]) -> int:
    """How many neighbours are normalised together, if weight and bias have one element for each; else 0."""
    outside = len(shape) - len(axes)
    if sorted(axes) != list(range(outside, len(shape))) or tuple(affine) != (1,) * outside + tuple(shape[outside:]):
        return 0
    return math.prod(shape[outside:])


def normalize(x: Any, weight: Any, bias: Any, eps: float, axes: tuple[int, ...], affine: tuple[int, ...],
              centered: bool) -> tuple[Any, Any, Any]:
    n = _width(x.shape, axes, affine) if x.size and fits(x, weight, bias) else 0
    if not n:
        return plain("normalize", x)(x, weight, bias, eps, axes, affine, centered)
    kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    y, rstd = cupy.empty_like(x), cupy.empty(kept, x.dtype)
    mean = cupy.empty(kept, x.dtype) if centered else None
    over_rows("layer_norm", x.dtype, x.size // n, n, x, weight, bias, n, float(eps), bool(centered), y, mean, rstd)
    return y, mean, rstd


def normalize_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, axes: tuple[int, ...],
                       affine: tuple[int, ...], shape: tuple[int, ...], fixed: bool,
                       needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    whole = not fixed and x.size and g.shape == x.shape and fits(g, x, mean, rstd, weight)
    n = _width(x.shape, axes, affine) if whole else 0
    if not n:
        return plain("normalize_backward", x)(g, x, mean, rstd, weight, axes, affine, shape, fixed, needs)
    gx = None
    if needs[0]:
        gx = cupy.empty_like(x)
        over_rows("layer_norm_backward", x.dtype, x.size // n, n, g, x, mean, rstd, weight, n, gx)
    _, gw, gb = plain("normalize_backward", x)(g, x, mean, rstd, weight, axes, affine, shape, fixed,
                                               (False, needs[1], needs[2]))
    return gx, gw, gb
