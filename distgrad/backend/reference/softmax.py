"""Softmax and its logarithm along one dimension, forward and backward.

Rows that are -inf throughout give NaN, as the formula says; a single -inf gives a probability of 0.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel
from ._wide import wide

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]


@kernel
def softmax(xp: Any, x: Any, dim: int) -> Any:
    """exp(x) / sum(exp(x)); the row's maximum is subtracted first, so that nothing overflows."""
    if x.size == 0:
        return xp.empty_like(x)
    w = wide(x)
    y = xp.subtract(w, w.max(axis=dim, keepdims=True))
    xp.exp(y, out=y)
    y /= y.sum(axis=dim, keepdims=True)
    return y.astype(x.dtype, copy=False)


@kernel
def softmax_backward(xp: Any, g: Any, y: Any, dim: int) -> Any:
    """y * (g - sum(g * y))."""
    g, p = wide(g), wide(y)
    gx = g * p
    gx -= p * gx.sum(axis=dim, keepdims=True)
    return gx.astype(y.dtype, copy=False)


@kernel
def log_softmax(xp: Any, x: Any, dim: int) -> Any:
    """x - log(sum(exp(x))), with the row's maximum subtracted first."""
    if x.size == 0:
        return xp.empty_like(x)
    w = wide(x)
    y = xp.subtract(w, w.max(axis=dim, keepdims=True))
    y -= xp.log(xp.exp(y).sum(axis=dim, keepdims=True))
    return y.astype(x.dtype, copy=False)


@kernel
def log_softmax_backward(xp: Any, g: Any, y: Any, dim: int) -> Any:
    """g - exp(y) * sum(g)."""
    g, w = wide(g), wide(y)
    gx = xp.exp(w)
    gx *= g.sum(axis=dim, keepdims=True)
    return xp.subtract(g, gx, out=gx).astype(y.dtype, copy=False)
