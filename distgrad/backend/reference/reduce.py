"""The reduction in shared memory: one pass that sums, divides, squares and writes to every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._register import kernel
from .norm import norm_blocks

__all__ = ["mean_of_ranks"]

_BLOCKS = 4  # grid blocks worked on at a time: what all ranks hold of them stays in cache


@kernel
def mean_of_ranks(xp: Any, flats: Sequence[Any], partials: Sequence[Any], grid: int, divisor: float,
                  sums: Any = None, more: bool = False) -> None:
    """Write ((g0 + g1) + g2 + ...) / divisor into every flats[r], and its squares' sum by block into every partials[r].

    Args:
        divisor: the number of ranks, or the sum of their weights.
        sums: keeps the undivided sum for a later call; with `more` that sum so far is added first.
        flats: each rank's gradients of one range, whole grid blocks; float16 is summed in float32.
        partials: each rank's float64 array, one number a block.
    """
    first = flats[0]
    wide = "float32" if first.dtype.kind == "f" and first.dtype.itemsize == 2 else first.dtype
    width = _BLOCKS * grid
    total = xp.empty(min(width, first.size), wide)
    for begin in range(0, first.size, width):
        part = slice(begin, begin + width)
        count = first[part].size
        acc = total[:count]
        acc[...] = first[part]
        for other in flats[1:]:
            acc += other[part]
        if sums is not None:
            if more:
                xp.add(sums[part], acc, out=acc)
            sums[part] = acc
        acc /= divisor
        first[part] = acc
        mean = first[part]  # rounded to the gradient's dtype, as every rank will read it
        for other in flats[1:]:
            other[part] = mean
        sums = norm_blocks(xp, mean, 2, grid)
        for partial in partials:
            partial[begin // grid:(begin + count) // grid] = sums
