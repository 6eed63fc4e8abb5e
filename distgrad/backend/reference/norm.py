"""Partial norms over a fixed grid, in float64: the sums that clipping adds up in grid order.

A block's number depends on that block alone, so slices that are cut on the grid give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ._register import kernel

__all__ = ["clip_factor", "multiply_", "norm_blocks", "norm_from", "norms_of"]

_BLOCKS = 16  # grid blocks worked on at a time: the float64 copy stays in cache


@kernel
def norm_blocks(xp: Any, flat: Any, norm_type: float, grid: int) -> Any:
    """For each block of `grid` elements: sum |x|^p, for p = inf max |x|, for p = 0 how many are not 0.

    Args:
        flat: one dimension; the last block may be shorter.

    Returns:
        float64, one for each block.
    """
    size = flat.size
    out = xp.zeros(-(-size // grid), "float64")
    scratch = xp.empty(min(_BLOCKS * grid, size), "float64")
    for start in range(0, size, _BLOCKS * grid):
        part = flat[start:start + _BLOCKS * grid]
        values = _values(xp, part, norm_type, scratch[:part.size])
        first, whole = start // grid, part.size // grid
        reduce = xp.max if norm_type == math.inf else xp.sum
        if whole:
            out[first:first + whole] = reduce(values[:whole * grid].reshape(whole, grid), axis=1)
        if part.size > whole * grid:
            out[first + whole] = reduce(values[whole * grid:])
    return out


@kernel
def norms_of(xp: Any, arrays: Sequence[Any], norm_type: float, grid: int) -> Any:
    """`norm_blocks` of arrays of any shape, each with blocks of its own, one array's after the other's."""
    parts = [norm_blocks(xp, x.reshape(-1), norm_type, grid) for x in arrays]
    return xp.concatenate(parts) if parts else xp.zeros(0, "float64")


@kernel
def norm_from(xp: Any, partials: Any, norm_type: float, dtype: Any) -> Any:
    """(sum of partial sums)^(1/p), for p = inf the largest of them, for p = 0 their sum: an array of one element."""
    if norm_type == math.inf:
        return xp.asarray(partials.max() if partials.size else xp.zeros(()), dtype)
    total = partials.sum()
    if norm_type:
        total = xp.sqrt(total) if norm_type == 2 else total ** (1 / norm_type)
    return xp.asarray(total, dtype)


@kernel
def clip_factor(xp: Any, norm: Any, max_norm: float, dtype: Any) -> Any:
    """min(1, max_norm / (norm + 1e-6)), computed in float64, as an array of one element; NaN stays NaN."""
    return xp.minimum(max_norm / (norm.astype("float64") + 1e-6), 1.0).astype(dtype)


@kernel
def multiply_(xp: Any, arrays: Sequence[Any], factor: Any) -> None:
    """Each array times a factor, in place.

    Args:
        factor: a number, rounded to the arrays' dtype, or an array of one element.
    """
    for x in arrays:
        x *= x.dtype.type(factor) if isinstance(factor, float) else factor


def _values(xp: Any, part: Any, norm_type: float, out: Any) -> Any:
    """What is to be summed (or compared) of each element."""
    if norm_type == 0:
        out[...] = part != 0
        return out
    if part.dtype.kind == "c":
        part = xp.abs(part)
    if norm_type == 2:
        return xp.square(part, out=out, dtype="float64")
    out[...] = part
    xp.abs(out, out=out)
    return out if norm_type in (1, math.inf) else xp.power(out, norm_type, out=out)
