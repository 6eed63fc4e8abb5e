"""Sums over ranks whose bits depend on the order of ranks alone.

It owns the fixed grid that large buffers are cut on and the one loop that adds contributions. It
knows neither ranks' memory nor messages: `base.Communicator` brings the parts and takes the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arguments import sum_dtype

__all__ = ["GRID", "slice_counts", "sum_in_order"]

# Large buffers are cut at multiples of this many elements, whatever the number of ranks.
GRID = 4096

# Elements added at a time, so that the running sum stays in the cache while the parts pass by.
_BLOCK = 16384


def slice_counts(count: int, parts: int) -> list[int]:
    """Cut `count` elements into `parts` consecutive slices of nearly equal length.

    The cuts lie on the grid when the slices are long enough to stay balanced, from eight blocks on.
    """
    unit = GRID if count >= 8 * parts * GRID else 1
    blocks, rest = divmod(-(-count // unit), parts)
    ends = [min(unit * (blocks * (i + 1) + min(i + 1, rest)), count) for i in range(parts)]
    return [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def sum_in_order(parts: Sequence[Any], out: Any, mean: bool) -> None:
    """Write ((parts[0] + parts[1]) + parts[2]) + ... into `out`; then divide by len(parts) if `mean`.

    All are one-dimensional, of equal length and dtype; `out` may share no memory with the parts.
    float16 and bfloat16 are summed and divided in float32 and rounded once.
    """
    wide = sum_dtype(out.dtype)
    with np.errstate(all="ignore"):  # an overflow is found and named by the health check of the step
        for begin in range(0, out.size, _BLOCK):
            block = slice(begin, begin + _BLOCK)
            total = out[block] if wide == out.dtype else np.empty(out[block].size, wide)
            total[...] = parts[0][block]
            for part in parts[1:]:
                np.add(total, part[block].astype(wide, copy=False), out=total)
            if mean:
                np.true_divide(total, len(parts), out=total)
            if total.dtype != out.dtype:
                out[block] = total.astype(out.dtype)
