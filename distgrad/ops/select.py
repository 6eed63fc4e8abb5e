"""Choosing elements by a condition or by bounds; the branch not taken never leaks NaN into a gradient."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._declare import NUMBERS
from ._promote import result_type, scalar_result
from .cast import cast

__all__ = ["Clamp", "Where", "clamp", "masked_fill", "where"]


class Where(Function):
    """a where the condition holds, else b; all three broadcast."""

    def forward(ctx: Any, condition: Any, a: Any, b: Any) -> Any:
        ctx.save(condition)
        return of(condition).xp.where(condition, a, b)

    def vjp(ctx: Any, g: Any) -> Any:
        (condition,) = ctx.saved
        return (None, where(condition, g, 0) if ctx.needs(1) else None,
                where(condition, 0, g) if ctx.needs(2) else None)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the boolean `condition` holds, else `b`; shapes broadcast, dtypes promote."""
    if not isinstance(a, TensorBase) and not isinstance(b, TensorBase):
        return Where.apply(condition, a, b)
    if isinstance(a, TensorBase) and isinstance(b, TensorBase):
        if a.dtype != b.dtype:
            dtype = result_type(a.dtype, bool(a.shape), b.dtype, bool(b.shape))
            a, b = cast(a, dtype), cast(b, dtype)
    elif isinstance(a, TensorBase):
        a = _beside(a, b)
    else:
        b = _beside(b, a)
    return Where.apply(condition, a, b)


def _beside(tensor: Any, other: Any) -> Any:
    """The tensor in the dtype that it gets beside a Python number."""
    if isinstance(other, NUMBERS):
        dtype = scalar_result(tensor.dtype, other)
        if dtype != tensor.dtype:
            return cast(tensor, dtype)
    return tensor


class Clamp(Function):
    """Bounds on each element; at a bound the gradient belongs to x."""

    def forward(ctx: Any, x: Any, low: Any, high: Any) -> Any:
        ctx.save(x, low, high)
        xp = of(x).xp
        if low is not None:
            x = xp.maximum(x, low)
        return x if high is None else xp.minimum(x, high)

    def vjp(ctx: Any, g: Any) -> Any:
        x, low, high = ctx.saved
        inside = True if low is None else x >= low  # neither holds for NaN, which gets no gradient
        if high is not None:
            inside = inside & (x <= high)
        below = None
        if ctx.needs(1):
            below = x < low if high is None else (x < low) & (low <= high)
        return (where(inside, g, 0), where(below, g, 0) if ctx.needs(1) else None,
                where(x > high, g, 0) if ctx.needs(2) else None)


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """Each element brought into [min, max]; bounds are numbers or tensors, either may be missing.

    Raises:
        RuntimeError: neither bound is given.
    """
    if min is None and max is None:
        raise RuntimeError("clamp: give min, max or both")
    if isinstance(x, TensorBase):
        for bound in (min, max):
            if isinstance(bound, TensorBase):
                dtype = result_type(x.dtype, bool(x.shape), bound.dtype, bool(bound.shape))
                x = x if x.dtype == dtype else cast(x, dtype)
            elif bound is not None:
                x = _beside(x, bound)
    return Clamp.apply(x, min, max)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """`value` (a number or 0-d tensor) where the mask holds, else x."""
    return where(mask, value, x)
