"""Sums over rows, in an order that the numbers of rows and columns alone decide."""

from __future__ import annotations

from typing import Any

from ..row_vectors import inlined, read, write, zeros
from ..vectors import WIDTH, add

__all__ = ["sum_rows"]

ROWS = 4      # that are summed before they are added to the result
BLOCK = 256   # rows of narrow arrays that are summed by themselves


@inlined
def _four(x: Any, at: int, n: int, left: int) -> Any:
    """(x0 + x1) + (x2 + x3), of rows that follow each other."""
    low = add(read(x, at, left, zeros(x)), read(x, at + n, left - n, zeros(x)))
    high = add(read(x, at + 2 * n, left - 2 * n, zeros(x)), read(x, at + 3 * n, left - 3 * n, zeros(x)))
    return add(low, high)


def sum_rows(x: Any, out: Any, rows: int, n: int) -> None:
    """What is read beyond the end of a row is in lanes that are not written."""
    size, fours = rows * n, rows - rows % ROWS
    if n <= WIDTH:
        total = zeros(x)
        for block in range(0, rows, BLOCK):
            part = zeros(x)
            end = block + BLOCK if block + BLOCK < rows else rows
            last = end if end < fours else fours
            for row in range(block, last, ROWS):
                part = add(part, _four(x, row * n, n, size - row * n))
            for row in range(last, end):
                part = add(part, read(x, row * n, size - row * n, zeros(x)))
            total = add(total, part)
        write(total, out, 0, n)
        return
    for i in range(0, n, WIDTH):
        write(zeros(x), out, i, n - i)
    for row in range(0, fours, ROWS):
        for i in range(0, n, WIDTH):
            at = row * n + i
            write(add(read(out, i, n - i, zeros(x)), _four(x, at, n, size - at)), out, i, n - i)
    for row in range(fours, rows):
        for i in range(0, n, WIDTH):
            at = row * n + i
            write(add(read(out, i, n - i, zeros(x)), read(x, at, size - at, zeros(x))), out, i, n - i)
