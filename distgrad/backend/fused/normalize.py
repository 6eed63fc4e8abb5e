"""Normalisation with what is normalised together in the cache: rows (layer norm), or segments (group and batch norm).

Segments that are short, and what is summed over the batch alone, are left to the reference.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference import normalize as reference
from ._dense import Loops, place, straight

__all__ = ["batch_norm", "normalize", "normalize_backward"]

_ROWS = Loops("normalize", "normalize_rows", "TTTTTTnnnnnt")
_ROWS_BACKWARD = Loops("normalize", "normalize_rows_backward", "TTTTTTTTnnnnn")
_SEGMENTS = Loops("normalize", "normalize_segments", "TTTTTTT" + "n" * 11 + "t")
_SEGMENTS_BACKWARD = Loops("normalize", "normalize_segments_backward", "TTTTTTTT" + "n" * 10)
_SHORT = 16  # elements of a segment, where half of a vector's lanes are idle

Shape = tuple[int, ...]


def _outer(shape: Shape, axes: Shape, affine: Shape, plain: bool) -> int:
    """How many dimensions come before the rows; 0 where these are not rows with a weight for each column."""
    first = len(shape) - len(axes)
    rows = axes == tuple(range(first, len(shape))) and (plain or affine[first:] == shape[first:])
    return first if rows else 0


def _segments(shape: Shape, axes: Shape, affine: Shape) -> Shape | None:
    """(groups, count, length, apart, stride, heads, step, pace) as in [Note: segments] of the loops; None: no segments.

    In group norm the shape is (samples, groups, channels of a group, length).
    """
    if len(shape) == 4 and axes == (2, 3) and affine == (1, *shape[1:3], 1):
        samples, heads, channels, length = shape
        found = (samples * heads, channels, length, channels * length, length, heads, channels, 1)
    elif len(shape) > 1 and axes == (0, *range(2, len(shape))) and affine == (1, shape[1], *(1,) * (len(shape) - 2)):
        (samples, channels), length = shape[:2], math.prod(shape[2:])
        found = (channels, samples, length, length, channels * length, channels, 1, 0)
    else:
        return None
    return found if found[2] >= _SHORT else None


def _alike(dtype: Any, *parameters: Any) -> bool:
    return all(p is None or p.dtype == dtype for p in parameters)


def _pointer(parameter: Any, other: Any) -> Any:
    """Where a parameter lies, if there is one; else anywhere."""
    return place(other if parameter is None else parameter)


def _straight(parameter: Any) -> Any:
    return None if parameter is None else straight(parameter)


def normalize(x: Any, weight: Any, bias: Any, eps: float, axes: Shape, affine: Shape,
              centered: bool) -> tuple[Any, Any, Any]:
    """As the reference: (y, mean, rstd), with mean and variance over `axes`."""
    shape, dtype = x.shape, x.dtype
    outer, segments = 0, None
    if x.size and _ROWS[dtype] is not None and _alike(dtype, weight, bias):
        outer = _outer(shape, axes, affine, weight is None and bias is None)
        segments = _segments(shape, axes, affine) if centered and not outer else None
    if not outer and segments is None:
        return reference.normalize(np, x, weight, bias, eps, axes, affine, centered)
    x, weight, bias = straight(x), _straight(weight), _straight(bias)
    y = np.empty_like(x)
    rstd = np.empty(tuple([1 if d in axes else n for d, n in enumerate(shape)]), dtype)
    mean = np.empty_like(rstd) if centered else None
    if segments is None:
        _ROWS[dtype](place(x), _pointer(weight, y), _pointer(bias, y), place(y), _pointer(mean, rstd), place(rstd),
                     rstd.size, x.size // rstd.size, weight is not None, bias is not None, centered, eps)
    else:
        _over_segments(segments, x, weight, bias, y, mean, np.empty_like(rstd), rstd, False, eps)
    return y, mean, rstd


def _over_segments(segments: Shape, x: Any, weight: Any, bias: Any, y: Any, mean: Any, var: Any, rstd: Any,
                   fixed: bool, eps: float) -> None:
    loop = _SEGMENTS[x.dtype]
    loop(place(x), _pointer(weight, y), _pointer(bias, y), place(y), place(mean), place(var), place(rstd), *segments,
         weight is not None, bias is not None, fixed, eps)


def batch_norm(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float, momentum: float,
               training: bool) -> tuple[Any, Any, Any]:
    """As the reference: (y, mean, rstd) per channel; in training the running statistics move."""
    shape, dtype = x.shape, x.dtype
    affine = (1, shape[1], *(1,) * (len(shape) - 2))
    segments = None
    if x.size and _SEGMENTS[dtype] is not None and _alike(dtype, weight, bias, running_mean, running_var):
        segments = _segments(shape, (0, *range(2, len(shape))), affine)
    if segments is None:
        return reference.batch_norm(np, x, weight, bias, running_mean, running_var, eps, momentum, training)
    x, weight, bias = straight(x), _straight(weight), _straight(bias)
    y, rstd = np.empty_like(x), np.empty(affine, dtype)
    mean = np.empty(affine, dtype) if training else running_mean.reshape(affine).copy()
    var = np.empty(affine, dtype) if training else straight(running_var)
    _over_segments(segments, x, weight, bias, y, mean, var, rstd, not training, eps)
    if training:
        reference.move(running_mean, running_var, mean.reshape(-1), var.reshape(-1), momentum, x.size // shape[1])
    return y, mean, rstd


def normalize_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, axes: Shape, affine: Shape, shape: Shape,
                       fixed: bool, needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    """As the reference: gradients of x, weight and bias, None where not needed."""
    dtype, parameters = x.dtype, needs[1] or needs[2]
    outer, segments = 0, None
    if x.size and _ROWS_BACKWARD[dtype] is not None and g.shape == x.shape and _alike(dtype, g, weight, rstd):
        outer = 0 if fixed else _outer(x.shape, axes, affine, weight is None and not parameters)
        segments = None if outer or mean is None else _segments(x.shape, axes, affine)
    if not outer and segments is None:
        return reference.normalize_backward(np, g, x, mean, rstd, weight, axes, affine, shape, fixed, needs)
    g, x, weight = straight(g), straight(x), _straight(weight)
    gx = np.empty_like(x)
    gw, gb = np.zeros((2, math.prod(affine)), dtype)
    pointers = (place(g), place(x), _pointer(mean, rstd), place(rstd), _pointer(weight, gx), place(gx), place(gw),
                place(gb))
    if segments is None:
        _ROWS_BACKWARD[dtype](*pointers, rstd.size, x.size // rstd.size, weight is not None, mean is not None,
                              parameters)
    else:
        _SEGMENTS_BACKWARD[dtype](*pointers, *segments, weight is not None, fixed)
    return gx if needs[0] else None, gw.reshape(shape) if needs[1] else None, gb.reshape(shape) if needs[2] else None
