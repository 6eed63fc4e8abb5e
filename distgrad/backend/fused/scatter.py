"""Sums at computed places in one pass: what repeated indices bring together, the embedding table's gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference import scatter as reference
from ._dense import Loops, place, straight

__all__ = ["index_add", "index_put"]

_ADD = Loops("scatter", "index_add", "TNTNnnnn")
_INDEX = np.dtype(np.int64)


def index_add(out: Any, dim: int, index: Any, source: Any) -> Any:
    """As the reference, with the same bits: out[..., index[i], ...] += source[..., i, ...] along `dim`."""
    shape, flags = out.shape, out.flags
    loop = _ADD[out.dtype] if source.size and source.dtype == out.dtype and flags.carray else None
    if loop is None or index.ndim != 1 or source.shape != (*shape[:dim], index.size, *shape[dim + 1:]):
        return reference.index_add(np, out, dim, index, source)
    places, parts, wrong = straight(index.astype(_INDEX, copy=False)), straight(source), np.empty(1, _INDEX)
    loop(place(out), place(places), place(parts), place(wrong), math.prod(shape[:dim]), places.size, shape[dim],
         math.prod(shape[dim + 1:]))
    return reference.index_add(np, out, dim, index, source) if wrong[0] else out


def index_put(out: Any, key: tuple[Any, ...], value: Any, accumulate: bool) -> Any:
    """As the reference, with the same bits; compiled where whole rows are added."""
    rows = reference.rows_of(np, out, key, value) if accumulate else None
    return reference.index_put(np, out, key, value, accumulate) if rows is None else index_add(out, 0, *rows)
