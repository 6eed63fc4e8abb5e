"""Softmax and its logarithm along the last dimension, a row at a time while it is in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..reference import softmax as reference
from ._dense import Loops, place, straight

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]


def _forward(name: str) -> Callable[[Any, int], Any]:
    loops, plain = Loops("softmax", name, "TTnn"), getattr(reference, name)

    def kernel(x: Any, dim: int) -> Any:
        size = x.size
        loop = loops[x.dtype] if size and dim in (-1, x.ndim - 1) else None
        if loop is None:
            return plain(np, x, dim)
        x = straight(x)
        y = np.empty_like(x)
        n = x.shape[-1]
        loop(place(x), place(y), size // n, n)
        return y

    return kernel


def _backward(name: str) -> Callable[[Any, Any, int], Any]:
    loops, plain = Loops("softmax", name, "TTTnn"), getattr(reference, name)

    def kernel(g: Any, y: Any, dim: int) -> Any:
        size = y.size
        loop = loops[y.dtype] if size and dim in (-1, y.ndim - 1) else None
        if loop is None or g.dtype != y.dtype or g.shape != y.shape:
            return plain(np, g, y, dim)
        g, y = straight(g), straight(y)
        gx = np.empty_like(y)
        n = y.shape[-1]
        loop(place(g), place(y), place(gx), size // n, n)
        return gx

    return kernel


softmax = _forward("softmax")
log_softmax = _forward("log_softmax")
softmax_backward = _backward("softmax_backward")
log_softmax_backward = _backward("log_softmax_backward")
