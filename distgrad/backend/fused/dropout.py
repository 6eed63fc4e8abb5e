"""Dropout from given uniform numbers, with its mask, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import dropout as reference
from ._dense import Loops, place, straight

__all__ = ["dropout", "dropout_backward"]

_FORWARD = Loops("dropout", "dropout", "TNTNntt")
_BACKWARD = Loops("dropout", "dropout_backward", "TNTnt")
_NOISE, _MASK = np.dtype(np.float32), np.dtype(np.bool_)
_LEAST = 2048  # elements from which on a loop is sooner done than numpy


def dropout(x: Any, noise: Any, p: float) -> tuple[Any, Any]:
    """As the reference, with the same bits: x / (1 - p) where noise >= p, else 0, and the mask."""
    size = x.size
    loop = _FORWARD[x.dtype] if size >= _LEAST and noise.dtype == _NOISE and noise.shape == x.shape else None
    if loop is None:
        return reference.dropout(np, x, noise, p)
    x, noise = straight(x), straight(noise)
    y, mask = np.empty_like(x), np.empty(x.shape, _MASK)
    loop(place(x), place(noise), place(y), place(mask), size, p, 1 / (1 - p) if p < 1 else 1)
    return y, mask


def dropout_backward(g: Any, mask: Any, p: float) -> Any:
    """As the reference, with the same bits: g / (1 - p) where the mask holds, else 0."""
    size = g.size
    loop = _BACKWARD[g.dtype] if size >= _LEAST and mask.dtype == _MASK and mask.shape == g.shape else None
    if loop is None:
        return reference.dropout_backward(np, g, mask, p)
    g, mask = straight(g), straight(mask)
    gx = np.empty_like(g)
    loop(place(g), place(mask), place(gx), size, 1 / (1 - p) if p < 1 else 1)
    return gx
