"""Cross entropy from scores and class indices: one pass over each row forward, one backward.

Class weights and label smoothing are left to the reference; its other results are the same here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import loss as reference
from ._dense import Loops, place, straight

__all__ = ["cross_entropy", "cross_entropy_backward"]

_FORWARD = Loops("softmax", "cross_entropy", "TNTTNTTTNnnnn")
_BACKWARD = Loops("softmax", "cross_entropy_backward", "TTTNTNTnnnnn")
_INDEX = np.dtype(np.int64)


def cross_entropy(x: Any, target: Any, weight: Any, ignore_index: int, smoothing: float,
                  reduction: str) -> tuple[Any, Any, Any, Any, Any]:
    """As the reference: (loss, e, s, safe, r); e of ignored rows is 0. Compiled without weight and smoothing."""
    loop = _FORWARD[x.dtype] if weight is None and not smoothing and x.size else None
    if loop is None:
        return reference.cross_entropy(np, x, target, weight, ignore_index, smoothing, reduction)
    x, target = straight(x), straight(target.astype(_INDEX, copy=False))
    (rows, classes), dtype = x.shape, x.dtype
    e, sums, loss = np.empty(x.shape, dtype), np.empty((3, rows), dtype), np.empty((), dtype)
    safe, wrong = np.empty(rows, _INDEX), np.empty(1, _INDEX)
    s, r, losses = sums
    loop(place(x), place(target), place(e), place(s), place(safe), place(r), place(losses), place(loss), place(wrong),
         rows, classes, ignore_index, reduction == "mean")
    if wrong[0]:
        reference.row_weights(np, target, classes, weight, ignore_index, dtype)  # raises
    return losses if reduction == "none" else loss, e, s, safe, r


def cross_entropy_backward(g: Any, e: Any, s: Any, safe: Any, r: Any, target: Any, weight: Any, ignore_index: int,
                           smoothing: float, reduction: str) -> Any:
    """As the reference: softmax(x) minus 1 at the target, times the row's g."""
    loop = _BACKWARD[e.dtype] if weight is None and not smoothing and e.size and g.dtype == e.dtype else None
    each = reduction == "none"
    if loop is None or g.size != (len(e) if each else 1):
        return reference.cross_entropy_backward(np, g, e, s, safe, r, target, weight, ignore_index, smoothing,
                                                reduction)
    g, e, target = straight(g), straight(e), straight(target.astype(_INDEX, copy=False))
    gx = np.empty_like(e)
    rows, classes = e.shape
    loop(place(g), place(e), place(s), place(safe), place(r), place(target), place(gx), rows, classes, ignore_index,
         each, reduction == "mean")
    return gx
