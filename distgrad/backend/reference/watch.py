"""Waiting for numbers that other ranks raise in shared memory: the reference reads them from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ._register import kernel

__all__ = ["watch_plan"]

_LOOKS = 50  # between two offers of the core to others


@kernel
def watch_plan(xp: Any, rows: Sequence[Any], patience: int) -> Callable[[int, int, int, int], bool]:
    """Prepare looks at a table of counters: run(column, value, first, last) -> have rows [first, last) come to `value`?

    Args:
        rows: for each rank its int64 counters, which that rank alone writes.
        patience: how often to look before the answer is no.
    """
    views = [memoryview(row) for row in rows]  # read faster than arrays

    def run(column: int, value: int, first: int, last: int) -> bool:
        for look in range(patience):
            for row in views[first:last]:
                if row[column] < value:
                    break
            else:
                return True
            if look % _LOOKS == _LOOKS - 1:
                os.sched_yield()
        return False

    return run
