"""A rank's share of a bucket in one call: wait for the others, reduce, tell them, and wait for theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..reference.reduce import share_plan as _reference_plan
from ._memory import address, addresses
from .native import Loop
from .sums import common_dtype, inverse_of
from .watch import LOOKS, ORDERED

__all__ = ["share_plan"]

_SHARE = Loop("ranks", "reduce_share", "PPQTRNNNtt")
_MORE, _EXACT, _FROM, _TO, _WAIT, _LAST = 4, 7, 9, 11, 12, 13  # places in the loop's job


def share_plan(rows: Sequence[Any], rank: int, columns: tuple[int, int], patience: int, flats: Sequence[Any],
               partials: Sequence[Any], grid: int, sums: Any = None,
               outs: Sequence[Any] | None = None) -> Callable[[int, float, bool, bool, bool], int]:
    """As the reference: run(number, divisor, more, wait, last) -> 0 not reduced yet, 1 reduced, 2 by all ranks."""
    targets = flats if outs is None else outs
    dtype = common_dtype(flats, targets, partials, sums, grid)
    loop = _SHARE(dtype) if ORDERED else None
    if loop is None:
        return _reference_plan(np, rows, rank, columns, patience, flats, partials, grid, sums, outs)
    job = np.array([len(flats), len(targets), len(partials), sums is not None, 0, flats[0].size, grid, 0, columns[0], 0,
                    columns[1], 0, 0, 0, LOOKS, patience // LOOKS], np.int64)
    found = np.zeros(1, np.int64)
    fields, answer = memoryview(job), memoryview(found)
    pointers = (addresses(flats), addresses(targets), addresses(partials), address(flats[0] if sums is None else sums),
                addresses(rows), address(rows[rank]), address(found), address(job))
    known = [0.0, 0.0]  # the last divisor and its inverse

    def run(number: int, divisor: float, more: bool, wait: bool, last: bool) -> int:
        if divisor != known[0]:
            fields[_EXACT], known[1] = inverse_of(divisor)
            known[0] = divisor
        fields[_MORE], fields[_FROM], fields[_TO], fields[_WAIT], fields[_LAST] = more, number, number, wait, last
        loop(*pointers, divisor, known[1])
        return answer[0]

    run.keeps = (rows, flats, targets, partials)  # type: ignore[attr-defined]  # what the addresses point to
    return run
