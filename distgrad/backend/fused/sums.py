"""Sums of squares on the grid, and the mean over ranks with them in the same pass: the same function sums both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..reference.norm import norm_blocks as _reference_norm
from ..reference.norm import norms_of as _reference_norms
from ..reference.reduce import mean_of_ranks as _reference_mean
from ..reference.reduce import sum_of_ranks as _reference_sum
from ._memory import NAMES as _NAMES
from ._memory import address, addresses, alike, element
from .native import Loop

__all__ = ["common_dtype", "inverse_of", "mean_of_ranks", "norm_blocks", "norms_of", "sum_of_ranks"]

_NORM = Loop("sums", "norm_blocks", "PNDTnn")
_MEAN = Loop("ranks", "mean_of_ranks", "PPQTnnnnnnnntt")
_SUM = Loop("ranks", "sum_of_ranks", "PTnn")
_WIDTH = 32  # of vectors, as in `vectors`, which needs numba
_SMALLEST = 2.0 ** -64  # powers of two from here to its inverse have an exact inverse in every dtype


def norm_blocks(flat: Any, norm_type: float, grid: int) -> Any:
    """As the reference: sum |x|^p for each block of `grid` elements. Compiled for p = 2."""
    if norm_type != 2 or flat.ndim != 1:
        return _reference_norm(np, flat, norm_type, grid)
    return norms_of([flat], norm_type, grid)


def norms_of(arrays: Sequence[Any], norm_type: float, grid: int) -> Any:
    """As the reference: `norm_blocks` of several arrays, one after the other. Compiled for p = 2 in one dtype."""
    dtype = _NAMES.get(arrays[0].dtype) if norm_type == 2 and arrays else None
    loop = _NORM(dtype) if all(x.dtype == arrays[0].dtype for x in arrays) else None
    if loop is None:
        return _reference_norms(np, arrays, norm_type, grid)
    kept = [x if x.flags.carray else np.require(x, requirements="CAW") for x in arrays if x.size]
    sizes = np.array([x.size for x in kept], np.int64)
    out = np.empty(sum([-(-x.size // grid) for x in kept]))
    if kept:
        loop(addresses(kept), address(sizes), address(out), address(np.zeros(_WIDTH, dtype)), len(kept), grid)
    return out


def mean_of_ranks(flats: Sequence[Any], partials: Sequence[Any], grid: int, divisor: float, sums: Any = None,
                  more: bool = False, outs: Sequence[Any] | None = None) -> None:
    """As the reference: ((g0 + g1) + ...) / divisor into every flats[r], squares by block into every partials[r].

    Compiled where all gradients, sums and means have one dtype.
    """
    targets = flats if outs is None else outs
    dtype = common_dtype(flats, targets, partials, sums, grid)
    loop = _MEAN(dtype) if type(divisor) in (int, float) else None
    if loop is None:
        _reference_mean(np, flats, partials, grid, divisor, sums, more, outs)
        return
    exact, inverse = inverse_of(divisor)
    loop(addresses(flats), addresses(targets), addresses(partials), address(flats[0] if sums is None else sums),
         len(flats), len(targets), len(partials), sums is not None, more, flats[0].size, grid, exact, divisor, inverse)


def common_dtype(flats: Sequence[Any], targets: Sequence[Any], partials: Sequence[Any], sums: Any,
                 grid: int) -> str | None:
    """The dtype for which a reduction of these arrays is compiled, if it is."""
    arrays = [*flats, *targets] if sums is None else [*flats, *targets, sums]
    blocks, rest = divmod(flats[0].size, grid)
    fits = not rest and alike(arrays) and alike(partials) and partials[0].dtype == np.float64 \
        and partials[0].size == blocks
    return element(flats[0]) if fits else None


def inverse_of(divisor: float) -> tuple[bool, float]:
    """Whether times the inverse has the bits of a division, and the inverse."""
    exact = math.frexp(divisor)[0] == 0.5 and _SMALLEST <= divisor <= 1 / _SMALLEST
    return exact, 1 / divisor if exact else 0.0


def sum_of_ranks(flats: Sequence[Any], out: Any, grid: int) -> None:
    """As the reference, with the same bits: (g0 + g1) + ... into `out`. Compiled where all have one dtype."""
    dtype = element(out)
    fits = dtype is not None and not out.size % _WIDTH and alike([out, *flats])
    loop = _SUM(dtype) if fits else None
    if loop is None:
        _reference_sum(np, flats, out, grid)
    elif out.size:
        loop(addresses(flats), address(out), len(flats), out.size)
