"""Sums of squares on the grid, and the mean over ranks with them in the same pass: the same function sums both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..reference.norm import norm_blocks as _reference_norm
from ..reference.reduce import mean_of_ranks as _reference_mean
from ._memory import address, addresses, alike, element
from .native import native

__all__ = ["mean_of_ranks", "norm_blocks"]

_LANES = 256  # as in loops, which needs numba
_SMALLEST = 2.0 ** -64  # powers of two from here to its inverse have an exact inverse in every dtype


def norm_blocks(flat: Any, norm_type: float, grid: int) -> Any:
    """As the reference: sum |x|^p for each block of `grid` elements. Compiled for p = 2."""
    dtype = element(flat)
    loop = native("norm_blocks", dtype) if norm_type == 2 and dtype is not None else None
    if loop is None:
        return _reference_norm(np, flat, norm_type, grid)
    flat = np.require(flat, requirements="CA")
    out = np.empty(-(-flat.size // grid))
    if flat.size:
        loop(address(flat), address(out), address(np.empty(_LANES)), flat.size, grid)
    return out


def mean_of_ranks(flats: Sequence[Any], partials: Sequence[Any], grid: int, divisor: float, sums: Any = None,
                  more: bool = False, outs: Sequence[Any] | None = None) -> None:
    """As the reference: ((g0 + g1) + ...) / divisor into every flats[r], squares by block into every partials[r].

    Compiled where all gradients, sums and means have one dtype.
    """
    targets = flats if outs is None else outs
    arrays = [*flats, *targets] if sums is None else [*flats, *targets, sums]
    dtype = element(flats[0])
    size = flats[0].size
    blocks = size // grid
    if dtype is None or type(divisor) not in (int, float) or not alike(arrays) or not alike(partials) \
            or partials[0].dtype != np.float64 or partials[0].size != blocks or size != blocks * grid \
            or (loop := native("mean_of_ranks", dtype)) is None:
        _reference_mean(np, flats, partials, grid, divisor, sums, more, outs)
    elif blocks:
        total = np.empty(grid, dtype)
        exact = math.frexp(divisor)[0] == 0.5 and _SMALLEST <= divisor <= 1 / _SMALLEST
        loop(addresses(flats), addresses(targets), addresses(partials), address(total if sums is None else sums),
             address(total), address(np.empty(_LANES)), len(flats), len(targets), len(partials), sums is not None, more,
             size, grid, exact, divisor, 1 / divisor if exact else 0)
