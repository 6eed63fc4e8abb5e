"""Variances, norms and logsumexp: nonlinear reductions, with the edges of their gradients.

float16 is computed in float32. `dim` is an integer, a tuple of them, or None for all dimensions.
"""

from __future__ import annotations

import math
from typing import Any

from .._typing import Dims
from ..backend import of
from ..graph.function import Function
from ._arguments import dims_of
from .extremum import amax, amin
from .pointwise import abs as absolute
from .pointwise import direction, exp
from .select import where
from .sums import FoundDims, Mean, as_floating, count_of, in_dtype, is_half, kept_shape, raw_sum, spread
from .views import reshape

__all__ = ["CountNonzero", "LogSumExp", "Norm", "Std", "Var", "logsumexp", "norm", "std", "var", "vector_norm"]


def _deviations(x: Any, dims: FoundDims) -> Any:
    return x - Mean.apply(x, dims=dims, keepdim=True)


def _variance(x: Any, dims: FoundDims, keepdim: bool, correction: float) -> Any:
    """The raw variance: the sum of squared deviations over (count - correction), which counts at least 0."""
    wide = x.astype("float32") if is_half(x) else x
    d = _deviations(wide, dims)
    squares = (d * d.conj()).real if d.dtype.kind == "c" else d * d
    free = count_of(x.shape, dims) - correction
    return squares.sum(axis=dims, keepdims=keepdim) * (1 / free if free > 0 else math.inf)


class Var(Function):
    """Variances over dimensions."""

    def forward(ctx: Any, x: Any, dims: FoundDims, keepdim: bool, correction: float) -> Any:
        ctx.dims, ctx.keepdim, ctx.correction = dims, keepdim, correction
        ctx.save(x)
        return _variance(x, dims, keepdim, correction).astype(x.real.dtype, copy=False)

    def vjp(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved
        free = count_of(x.shape, ctx.dims) - ctx.correction
        g = spread(g * (2 / free if free > 0 else math.inf), x.shape, ctx.dims, ctx.keepdim)
        return g * _deviations(x, ctx.dims)


class Std(Function):
    """Standard deviations over dimensions; where one is 0 its gradient is 0."""

    def forward(ctx: Any, x: Any, dims: FoundDims, keepdim: bool, correction: float) -> Any:
        ctx.dims, ctx.keepdim, ctx.correction = dims, keepdim, correction
        out = of(x).xp.asarray(of(x).xp.sqrt(_variance(x, dims, keepdim, correction)).astype(x.real.dtype, copy=False))
        ctx.save(x, out)
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        free = count_of(x.shape, ctx.dims) - ctx.correction
        still = y == 0
        g = where(still, 0, g / where(still, 1, y)) * (1 / free if free > 0 else math.inf)
        return spread(g, x.shape, ctx.dims, ctx.keepdim) * _deviations(x, ctx.dims)


class LogSumExp(Function):
    """log(sum(exp(x))) without overflow; -inf where all elements are."""

    name = "Logsumexp"

    def forward(ctx: Any, x: Any, dims: FoundDims, keepdim: bool) -> Any:
        ctx.dims, ctx.keepdim = dims, keepdim
        xp = of(x).xp
        top = x.max(axis=dims, keepdims=True) if x.size else xp.zeros(kept_shape(x.shape, dims), x.dtype)
        top = xp.where(xp.isfinite(top), top, 0)
        total = raw_sum(xp.exp(x - top), dims, True)
        empty = total == 0
        y = xp.where(empty, -math.inf, xp.log(xp.where(empty, 1, total)) + top).astype(x.dtype, copy=False)
        y = y if keepdim else y.reshape([n for i, n in enumerate(x.shape) if dims is not None and i not in dims])
        ctx.save(x, y)
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        y = y if ctx.keepdim else reshape(y, kept_shape(x.shape, ctx.dims))
        # -inf - -inf would be NaN: an element that is -inf has no part in the sum.
        return spread(g, x.shape, ctx.dims, ctx.keepdim) * exp(x - where(y == -math.inf, 0, y))


class Norm(Function):
    """(sum |x|^p)^(1/p) for finite p > 0; where it is 0 its gradient is 0."""

    name = "LinalgVectorNorm"

    def forward(ctx: Any, x: Any, p: float, dims: FoundDims, keepdim: bool) -> Any:
        ctx.p, ctx.dims, ctx.keepdim = p, dims, keepdim
        xp = of(x).xp
        size = xp.abs(x)
        if size.dtype.itemsize == 2:
            size = size.astype("float32")
        if p == 2:
            out = xp.sqrt((size * size).sum(axis=dims, keepdims=keepdim))
        elif p == 1:
            out = size.sum(axis=dims, keepdims=keepdim)
        else:
            out = (size ** p).sum(axis=dims, keepdims=keepdim) ** (1 / p)
        out = xp.asarray(out.astype(x.real.dtype, copy=False))
        ctx.save(x, out)
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        p = ctx.p
        if p == 1:
            return spread(g, x.shape, ctx.dims, ctx.keepdim) * direction(x)
        still = y == 0
        divisor = where(still, 1, y)
        g = where(still, 0, g / (divisor if p == 2 else divisor ** (p - 1)))
        g = spread(g, x.shape, ctx.dims, ctx.keepdim)
        if p == 2:
            return g * x
        zero = x == 0
        return g * where(zero, 0, direction(x) * absolute(where(zero, 1, x)) ** (p - 1))


class CountNonzero(Function):
    """The norm of order 0: how many elements are not zero, in the input's dtype."""

    name = "LinalgVectorNorm"

    def forward(ctx: Any, x: Any, dims: FoundDims, keepdim: bool) -> Any:
        return (x != 0).sum(axis=dims, keepdims=keepdim).astype(x.real.dtype)

    def vjp(ctx: Any, g: Any) -> Any:
        return None


def _correction(name: str, correction: Any, unbiased: bool | None) -> float:
    if unbiased is None:
        return 1 if correction is None else correction
    if correction is not None:
        raise TypeError(f"{name}: give correction or unbiased, not both")
    return 1 if unbiased else 0


def var(x: Any, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: float | None = None) -> Any:
    """Variance over `dim`: sum((x - mean)^2) / (count - correction), with correction 1 unless given.

    NaN where there is only one element (with correction 1).

    Raises:
        RuntimeError: an integer tensor.
        TypeError: both `unbiased` and `correction`.
    """
    x = as_floating("var", x, None)
    dims = dims_of("var", dim, len(x.shape))
    return Var.apply(x, dims=dims, keepdim=keepdim,
                     correction=_correction("var", correction, unbiased))


def std(x: Any, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: float | None = None) -> Any:
    """Standard deviation over `dim`, the root of `var`; its gradient at 0 is 0."""
    x = as_floating("std", x, None)
    dims = dims_of("std", dim, len(x.shape))
    return Std.apply(x, dims=dims, keepdim=keepdim,
                     correction=_correction("std", correction, unbiased))


def logsumexp(x: Any, dim: Dims, keepdim: bool = False) -> Any:
    """log(sum(exp(x))) over `dim`, without overflow; -inf where all elements are -inf."""
    dims = dims_of("logsumexp", dim, len(x.shape))
    return LogSumExp.apply(in_dtype(x, "float" if x.dtype.kind in "biu" else None), dims=dims, keepdim=keepdim)


def vector_norm(x: Any, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """(sum |x|^p)^(1/p) over `dim` for p = ord; inf and -inf take the largest and smallest |x|, 0 counts.

    The gradient where the norm is 0 is 0.

    Raises:
        RuntimeError: an integer tensor, or an infinite norm of no elements.
    """
    x = as_floating("vector_norm", x, dtype)
    dims = dims_of("vector_norm", dim, len(x.shape))
    if ord == 0:
        return CountNonzero.apply(x, dims=dims, keepdim=keepdim)
    if math.isinf(ord):
        return (amax if ord > 0 else amin)(absolute(x), dims, keepdim)
    return Norm.apply(x, p=float(ord), dims=dims, keepdim=keepdim)


def norm(x: Any, p: Any = "fro", dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """`vector_norm` over `dim`; 'fro' and None mean 2.

    Raises:
        ValueError: another string (matrix norms are in linalg).
    """
    if isinstance(p, str) and p != "fro":
        raise ValueError(f"norm: p is a number or 'fro', got {p!r}; linalg.matrix_norm has the norms of matrices")
    return vector_norm(x, 2 if p in (None, "fro") else p, dim, keepdim, dtype=dtype)
