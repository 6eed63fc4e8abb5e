"""The reduction in shared memory: one pass that sums, divides, squares and writes; and its first half alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._register import kernel
from .norm import norm_blocks
from .watch import watch_plan

__all__ = ["mean_of_ranks", "share_plan", "sum_of_ranks"]

_BLOCKS = 4  # grid blocks worked on at a time: what all ranks hold of them stays in cache


@kernel
def mean_of_ranks(xp: Any, flats: Sequence[Any], partials: Sequence[Any], grid: int, divisor: float,
                  sums: Any = None, more: bool = False, outs: Sequence[Any] | None = None) -> None:
    """Write ((g0 + g1) + g2 + ...) / divisor into every flats[r], and its squares' sum by block into every partials[r].

    Args:
        flats: each rank's gradients of one range, whole grid blocks; float16 is summed in float32.
        partials: each rank's float64 array, one number a block.
        divisor: the number of ranks, or the sum of their weights.
        sums: keeps the undivided sum for a later call; with `more` that sum so far is added first.
        outs: where the mean goes instead of `flats`, perhaps in a narrower dtype.
    """
    first = flats[0]
    targets = flats if outs is None else outs
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
        targets[0][part] = acc
        mean = targets[0][part]  # rounded to the gradient's dtype, as every rank will read it
        for other in targets[1:]:
            other[part] = mean
        squares = norm_blocks(xp, mean, 2, grid)
        for partial in partials:
            partial[begin // grid:(begin + count) // grid] = squares


@kernel
def share_plan(xp: Any, rows: Sequence[Any], rank: int, columns: tuple[int, int], patience: int, flats: Sequence[Any],
               partials: Sequence[Any], grid: int, sums: Any = None,
               outs: Sequence[Any] | None = None) -> Callable[[int, float, bool, bool, bool], int]:
    """Prepare a rank's share of a bucket: `mean_of_ranks` between the counters by which ranks wait for each other.

    Args:
        rows: for each rank its int64 counters, which that rank alone writes.
        columns: of the counter that says that a rank has filled the bucket, and of that which says that it is reduced.
        patience: how often to look at others' counters before giving up for now.

    Returns:
        run(number, divisor, more, wait, last): waits, if asked, until all ranks' first counters have come to
        `number`; reduces; raises this rank's second counter to `number`; waits, if asked, for all others'. It returns
        0 where it did not come to reducing, 1 where it has reduced, 2 where all ranks are known to have.
    """
    look = watch_plan(xp, rows, patience)

    def run(number: int, divisor: float, more: bool, wait: bool, last: bool) -> int:
        if wait and not look(columns[0], number, 0, len(rows)):
            return 0
        mean_of_ranks(xp, flats, partials, grid, divisor, sums, more, outs)
        rows[rank][columns[1]] = number
        return 1 + (last and look(columns[1], number, 0, len(rows)))

    return run


@kernel
def sum_of_ranks(xp: Any, flats: Sequence[Any], out: Any, grid: int) -> None:
    """Write (g0 + g1) + g2 + ... into `out`, in whose dtype it is summed; `out` may be one of `flats`."""
    width = _BLOCKS * grid
    total = xp.empty(min(width, out.size), out.dtype)
    for begin in range(0, out.size, width):
        part = slice(begin, begin + width)
        acc = total[:out[part].size]
        acc[...] = flats[0][part]
        for other in flats[1:]:
            acc += other[part]
        out[part] = acc
