"""Softmax over rows, and the cross entropy that is made of it.

Rows are contiguous. Sums run over lanes and over blocks of BLOCK elements, in an order that the length of a row alone
decides.
"""

from __future__ import annotations

from typing import Any

from ..row_vectors import first, inlined, largest, lowest, maximum, read, subtract, write, zeros
from ..vector_math import exp, log
from ..vectors import WIDTH, add, divide, fill, multiply, sum_lanes

__all__ = ["cross_entropy", "cross_entropy_backward", "log_softmax", "log_softmax_backward", "softmax",
           "softmax_backward"]

BLOCK = 1024


@inlined
def _end(begin: int, n: int) -> int:
    """Where a block ends."""
    return begin + BLOCK if begin + BLOCK < n else n


@inlined
def _top(x: Any, row: int, n: int) -> Any:
    """The largest element of a row, everywhere."""
    top = lowest(x)
    for i in range(0, n, WIDTH):
        top = maximum(read(x, row + i, n - i, lowest(x)), top)
    return fill(largest(top))


@inlined
def _exponentials(x: Any, top: Any, y: Any, row: int, n: int, size: int) -> Any:
    """y = e^(x - top) for a row; their sum, everywhere."""
    total = zeros(x)
    for begin in range(0, n, BLOCK):
        part = zeros(x)
        for i in range(begin, _end(begin, n), WIDTH):
            e = exp(subtract(read(x, row + i, n - i, lowest(x)), top))
            write(e, y, row + i, size - row - i)
            part = add(part, e)
        total = add(total, part)
    return fill(sum_lanes(total))


def softmax(x: Any, y: Any, rows: int, n: int) -> None:
    size = rows * n
    for number in range(rows):
        row = number * n
        total = _exponentials(x, _top(x, row, n), y, row, n, size)
        for i in range(row, row + n, WIDTH):
            write(divide(read(y, i, size - i, zeros(y)), total), y, i, size - i)


def softmax_backward(g: Any, y: Any, gx: Any, rows: int, n: int) -> None:
    size = rows * n
    for number in range(rows):
        row = number * n
        total = zeros(g)
        for begin in range(0, n, BLOCK):
            part = zeros(g)
            for i in range(begin, _end(begin, n), WIDTH):
                part = add(part, multiply(read(g, row + i, n - i, zeros(g)), read(y, row + i, n - i, zeros(y))))
            total = add(total, part)
        along = fill(sum_lanes(total))
        for i in range(row, row + n, WIDTH):
            value = subtract(read(g, i, size - i, zeros(g)), along)
            write(multiply(read(y, i, size - i, zeros(y)), value), gx, i, size - i)


def log_softmax(x: Any, y: Any, rows: int, n: int) -> None:
    size = rows * n
    for number in range(rows):
        row = number * n
        top = _top(x, row, n)
        total = log(_exponentials(x, top, y, row, n, size))
        for i in range(row, row + n, WIDTH):
            write(subtract(subtract(read(x, i, size - i, zeros(x)), top), total), y, i, size - i)


def log_softmax_backward(g: Any, y: Any, gx: Any, rows: int, n: int) -> None:
    size = rows * n
    for number in range(rows):
        row = number * n
        total = zeros(g)
        for begin in range(0, n, BLOCK):
            part = zeros(g)
            for i in range(begin, _end(begin, n), WIDTH):
                part = add(part, read(g, row + i, n - i, zeros(g)))
            total = add(total, part)
        along = fill(sum_lanes(total))
        for i in range(row, row + n, WIDTH):
            value = multiply(exp(read(y, i, size - i, zeros(y))), along)
            write(subtract(read(g, i, size - i, zeros(g)), value), gx, i, size - i)


def cross_entropy(x: Any, target: Any, e: Any, s: Any, safe: Any, r: Any, losses: Any, loss: Any, wrong: Any,
                  rows: int, n: int, ignored: int, mean: int) -> None:
    """losses: of each row; loss[0]: their sum, or their mean over the rows that count. e of other rows is 0.

    wrong[0]: whether a target is no class; then nothing else is done.
    """
    wrong[0] = 0
    for row in range(rows):
        if target[row] != ignored and (target[row] < 0 or target[row] >= n):
            wrong[0] = 1
    if wrong[0]:
        return
    total, count = 0.0, 0.0
    for row in range(rows):
        begin = row * n
        if target[row] == ignored:
            for i in range(begin, begin + n):
                e[i] = 0
            s[row], safe[row], r[row], losses[row] = 1, 0, 0, 0
            continue
        top = _top(x, begin, n)
        found = _exponentials(x, top, e, begin, n, rows * n)
        picked = fill(x[begin + target[row]])
        losses[row] = first(subtract(log(found), subtract(picked, top)))
        s[row], safe[row], r[row] = first(found), target[row], 1
        total += losses[row]
        count += 1
    loss[0] = total / count if mean else total


def cross_entropy_backward(g: Any, e: Any, s: Any, safe: Any, r: Any, target: Any, gx: Any, rows: int, n: int,
                           ignored: int, each: int, mean: int) -> None:
    """`each`: g has a number for each row, else one for all."""
    size = rows * n
    count = 0.0
    for row in range(rows):
        count += r[row]
    for row in range(rows):
        begin = row * n
        if target[row] == ignored:
            for i in range(begin, begin + n):
                gx[i] = 0
            continue
        scale = g[row] if each else g[0]
        gx[begin] = scale / count if mean else scale
        picked = gx[begin]
        share = divide(fill(picked), fill(s[row]))
        for i in range(begin, begin + n, WIDTH):
            write(multiply(read(e, i, size - i, zeros(e)), share), gx, i, size - i)
        gx[begin + safe[row]] -= picked
