"""Sums of squares on the grid, and sums and means over ranks.

Over C pointers: no array objects, no allocation, nothing that can raise. `T` is float or double; scalars come in as
T, so arithmetic is that of the reference, operation by operation, and no fast-math flag lets a compiler change it.
"""

from __future__ import annotations

from typing import Any

from ..vectors import WIDTH, add, divide, fill, load, multiply, squares, store, sum_lanes

__all__ = ["mean_of_ranks", "norm_blocks", "sum_of_ranks"]


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


def mean_of_ranks(flats: Any, outs: Any, partials: Any, sums: Any, ranks: int, targets: int, copies: int, keep: int,
                  more: int, size: int, grid: int, exact: int, divisor: Any, inverse: Any) -> None:
    """`exact`: the divisor is a power of two, so that times `inverse` has the bits of a division."""
    by, times = fill(divisor), fill(inverse)
    for block in range(size // grid):
        total = fill(0.0)
        for i in range(block * grid, (block + 1) * grid, WIDTH):
            mean = load(flats[0], i)
            for r in range(1, ranks):
                mean = add(mean, load(flats[r], i))
            if keep:
                if more:
                    mean = add(load(sums, i), mean)
                store(mean, sums, i)
            if exact:
                mean = multiply(mean, times)
            else:
                mean = divide(mean, by)
            for r in range(targets):
                store(mean, outs[r], i)
            total = squares(total, mean)
        value = sum_lanes(total)
        for r in range(copies):
            partial = partials[r]
            partial[block] = value


def sum_of_ranks(flats: Any, out: Any, ranks: int, size: int) -> None:
    for i in range(0, size, WIDTH):
        total = load(flats[0], i)
        for r in range(1, ranks):
            total = add(total, load(flats[r], i))
        store(total, out, i)
