"""Thin factors of matrices: made orthonormal, and multiplied.

Written with elementwise operations in a fixed order, so that the same numbers have the same bits on unlike processors.
"""

from __future__ import annotations

from typing import Any

from ..._typing import Array

__all__ = ["orthonormal", "product"]

_PIECE = 16384  # elements worked on at a time
_NOTHING = 1e-12  # of a column, when this part of it is left, it depended on those before it


def orthonormal(xp: Any, p: Array) -> Array:
    """The columns of p made orthonormal in their order, in float64; one that depends on those before it becomes zero.

    Gram-Schmidt, each column twice: the second pass removes what rounding left.
    """
    out = p.astype("float64")
    for k in range(out.shape[1]):
        column, before = out[:, k], out[:, :k]
        length = xp.sqrt(_sum_rows(column * column))
        for _ in range(2 if k else 0):
            along = _sum_rows(before * column[:, None])
            for j in range(k):
                column -= along[j] * before[:, j]
        left = xp.sqrt(_sum_rows(column * column))
        column /= xp.where(left > _NOTHING * length, left, xp.inf)
    return out


def _sum_rows(x: Array) -> Array:
    """The sum of all rows, halves first: always the same additions, which no processor groups in its own way."""
    while len(x) > 1:
        half = len(x) // 2
        odd = x[2 * half:]
        x = x[:half] + x[half:2 * half]
        if len(odd):
            x[0] += odd[0]
    return x[0]


def product(xp: Any, p: Array, q: Array, out: Array) -> None:
    """p times the transpose of q, one column after the other."""
    rows_of_q = xp.ascontiguousarray(q.T)
    step = max(1, _PIECE // q.shape[0])
    for begin in range(0, len(p), step):
        part = p[begin:begin + step]
        total = part[:, :1] * rows_of_q[0]
        for k in range(1, p.shape[1]):
            total += part[:, k:k + 1] * rows_of_q[k]
        out[begin:begin + step] = total
