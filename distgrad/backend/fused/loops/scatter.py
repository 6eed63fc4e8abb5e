"""Sums at computed places, in the order of the indices."""

from __future__ import annotations

from typing import Any

from ..row_vectors import read, write, zeros
from ..vectors import WIDTH, add

__all__ = ["index_add"]


def index_add(out: Any, index: Any, source: Any, wrong: Any, front: int, count: int, size: int, behind: int) -> None:
    """out (front, size, behind) at index (count) += source (front, count, behind).

    wrong[0]: whether an index is outside; then nothing is done.
    """
    wrong[0] = 0
    for i in range(count):
        if index[i] < 0 or index[i] >= size:
            wrong[0] = 1
    if wrong[0]:
        return
    for f in range(front):
        for i in range(count):
            to, at = (f * size + index[i]) * behind, (f * count + i) * behind
            if behind < WIDTH:
                for j in range(behind):
                    out[to + j] += source[at + j]
            else:
                for j in range(0, behind, WIDTH):
                    left = behind - j
                    write(add(read(out, to + j, left, zeros(out)), read(source, at + j, left, zeros(out))), out,
                          to + j, left)
