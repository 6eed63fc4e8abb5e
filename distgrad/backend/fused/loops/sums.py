"""Sums of squares on the grid.

Over C pointers: no array objects, no allocation, nothing that can raise. `T` is float or double; scalars come in as
T, so arithmetic is that of the reference, operation by operation, and no fast-math flag lets a compiler change it.
"""

from __future__ import annotations

from typing import Any

from ..vectors import WIDTH, fill, load, squares, sum_lanes

__all__ = ["norm_blocks"]


def norm_blocks(xs: Any, sizes: Any, out: Any, tail: Any, count: int, grid: int) -> None:
    """Blocks of several arrays, one array after the other. `tail`: room for one vector, zeros."""
    at = 0
    for t in range(count):
        x, size = xs[t], sizes[t]
        for block in range((size + grid - 1) // grid):
            begin = block * grid
            end = begin + grid
            if end > size:
                end = size
            whole = end - (end - begin) % WIDTH
            total = fill(0.0)
            for i in range(begin, whole, WIDTH):
                total = squares(total, load(x, i))
            if whole < end:
                for i in range(WIDTH):
                    tail[i] = x[whole + i] if whole + i < end else 0
                total = squares(total, load(tail, 0))
            out[at] = sum_lanes(total)
            at += 1
