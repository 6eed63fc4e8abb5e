"""Attention as one loop each way: its scores exist for a block of queries at a time, and above the diagonal never."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..reference import attention as reference
from ._dense import Loops, place

__all__ = ["attention", "attention_backward"]

_FORWARD = Loops("attention", "attention", "TTTTTTTNTnnnnnnnnt")
_BACKWARD = Loops("attention", "attention_backward", "TTTTTTTTTTNTnnnnnnnnt")
_BLOCK, _WIDTH, _LANES = 48, 32, 16  # of the loops, which need numba; lanes at most


def _four(x: Any) -> Any:
    """An array as (batch, head, row, column)."""
    if x.ndim < 4:
        return x.reshape((1,) * (4 - x.ndim) + x.shape)
    return x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:])


def _rows(x: Any) -> Any:
    """The same, with the columns of a row side by side in memory."""
    x = _four(x)
    return x if x.flags.aligned and (x.strides[3] == x.itemsize or x.shape[3] == 1) else np.ascontiguousarray(x)


def _room(like: Any, width: int) -> Any:
    """A result with rows of `width`; between the heads of a row, as a projection has it, if `like` has them there."""
    n, heads, length, _ = like.shape
    if like.flags.c_contiguous:
        return np.empty((n, heads, length, width), like.dtype)
    return np.empty((n, length, heads, width), like.dtype).transpose(0, 2, 1, 3)


def _loop(loops: Loops, arrays: Sequence[Any], mask: Any) -> Any:
    """The loop for these arrays, queries first; None if they are not for it."""
    dtype = arrays[0].dtype
    fits = all(x.dtype == dtype and x.size for x in arrays) and (mask is None or mask.dtype == dtype)
    return loops[dtype] if fits else None


def _mask(mask: Any, q: Any, k: Any) -> Any:
    """The mask at every score, by strides of 0 where rows are the same; any array if there is none."""
    if mask is None:
        return _four(q)
    if mask.ndim == 0 or mask.shape[-1] != k.shape[-2] or mask.strides[-1] != mask.itemsize or not mask.flags.aligned:
        mask = np.ascontiguousarray(np.broadcast_to(mask, (*mask.shape[:-1], k.shape[-2])))
    return _four(np.broadcast_to(mask, (*q.shape[:-1], k.shape[-2])))


def _strides(*arrays: Any) -> Any:
    size = arrays[0].itemsize
    found = [stride // size for x in arrays for stride in x.strides]
    return (ctypes.c_int64 * len(found))(*found)


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def attention(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float) -> tuple[Any, Any, Any]:
    """As the reference. Compiled where all have one dtype and nothing is empty."""
    loop = _loop(_FORWARD, (q, k, v), mask)
    if loop is None:
        return reference.attention(np, q, k, v, mask, causal, scale)
    batch = q.shape[:-2]
    added = _mask(mask, q, k)
    q, k, v = _rows(q), _rows(k), _rows(v)
    (n, heads, queries, depth), keys, width = q.shape, k.shape[2], v.shape[3]
    y, top, total = _room(q, width), *np.empty((2, *batch, queries), q.dtype)
    wide, pitch = _whole(width, _LANES), _whole(keys, _WIDTH)
    scratch = np.zeros((depth + _BLOCK) * pitch + (keys + _BLOCK) * wide + _BLOCK, q.dtype)
    loop(place(q), place(k), place(v), place(added), place(y), place(top), place(total),
         _strides(q, k, v, added, y), place(scratch), n, heads, queries, keys, depth, width, mask is not None,
         causal, scale)
    return y.reshape(*batch, queries, width), top, total


def attention_backward(g: Any, q: Any, k: Any, v: Any, mask: Any, top: Any, total: Any, causal: bool, scale: float,
                       of_mask: bool) -> tuple[Any, Any, Any, Any]:
    """As the reference. Compiled where no gradient of the mask is wanted, all have one dtype and nothing is empty."""
    loop = None if of_mask else _loop(_BACKWARD, (q, k, v, g), mask)
    if loop is None:
        return reference.attention_backward(np, g, q, k, v, mask, top, total, causal, scale, of_mask)
    shapes = q.shape, k.shape, v.shape
    added = _mask(mask, q, k)
    g, q, k, v = _rows(g), _rows(q), _rows(k), _rows(v)
    (n, heads, queries, depth), keys, width = q.shape, k.shape[2], v.shape[3]
    found = [_room(x, x.shape[3]) for x in (q, k, v)]
    deep, wide, pitch = _whole(depth, _LANES), _whole(width, _LANES), _whole(keys, _WIDTH)
    scratch = np.zeros((deep + wide + 2 * _BLOCK) * pitch + (2 * keys + queries + _BLOCK) * deep
                       + (keys + queries) * wide + 1, q.dtype)
    loop(place(g), place(q), place(k), place(v), place(added), place(top), place(total), *map(place, found),
         _strides(q, k, v, added, g, *found), place(scratch), n, heads, queries, keys, depth, width,
         mask is not None, causal, scale)
    gq, gk, gv = (x.reshape(shape) for x, shape in zip(found, shapes, strict=True))
    return gq, gk, gv, None
