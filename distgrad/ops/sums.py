"""Sums, means and products over dimensions, and what is made of them: variances and norms.

float16 is summed in float32. `dim` is an integer, a tuple of them, or None for all dimensions.
"""

from __future__ import annotations

import math
from typing import Any

from .._typing import Dims, Shape
from ..backend import of
from ..backend.dtypes import dtype_of
from ..graph.function import Function
from ._arguments import dims_of, number_of, one_dim, plain, raw
from ._declare import conj
from .cast import cast
from .cumulative import product_of_others
from .extremum import amax, amin
from .pointwise import abs as absolute
from .pointwise import exp, isnan, sign
from .select import where
from .views import expand, flatten, reshape, unsqueeze

__all__ = ["CountNonzero", "LogSumExp", "Mean", "Norm", "Prod", "Std", "Sum", "Var", "all", "any", "count_nonzero", "logsumexp", "mean",
           "nansum", "norm", "prod", "std", "sum", "sum_to_size", "var", "vector_norm"]

_Dims = tuple[int, ...] | None


def _total(x: Any, dims: _Dims, keepdim: bool) -> Any:
    """The raw sum, accumulated in float32 for float16."""
    if x.dtype.kind == "f" and x.dtype.itemsize == 2:
        return x.sum(axis=dims, dtype="float32", keepdims=keepdim)
    return x.sum(axis=dims, keepdims=keepdim)


def _kept(shape: Shape, dims: _Dims) -> Shape:
    """The shape with reduced dimensions of size one."""
    return tuple([1 if dims is None or i in dims else n for i, n in enumerate(shape)])


def _spread(g: Any, shape: Shape, dims: _Dims, keepdim: bool) -> Any:
    """A reduction's cotangent in the input's shape, without memory for it."""
    if not keepdim and dims is not None:
        g = reshape(g, _kept(shape, dims))
    return expand(g, shape)


def _count(shape: Shape, dims: _Dims) -> int:
    return number_of(shape if dims is None else [shape[d] for d in dims])


class Sum(Function):
    """Sums over dimensions."""

    def forward(ctx: Any, x: Any, dims: _Dims, keepdim: bool) -> Any:
        ctx.dims, ctx.keepdim, ctx.inside = dims, keepdim, x.shape
        return _total(x, dims, keepdim).astype(x.dtype, copy=False)

    def vjp(ctx: Any, g: Any) -> Any:
        return _spread(g, ctx.inside, ctx.dims, ctx.keepdim)


class Mean(Function):
    """Means over dimensions."""

    def forward(ctx: Any, x: Any, dims: _Dims, keepdim: bool) -> Any:
        ctx.dims, ctx.keepdim, ctx.inside = dims, keepdim, x.shape
        count = _count(x.shape, dims)
        total = _total(x, dims, keepdim)
        return (total / count if count else total * math.nan).astype(x.dtype, copy=False)

    def vjp(ctx: Any, g: Any) -> Any:
        count = _count(ctx.inside, ctx.dims)
        return _spread(g / (count or 1), ctx.inside, ctx.dims, ctx.keepdim)


def _deviations(x: Any, dims: _Dims) -> Any:
    return x - Mean.apply(x, dims=dims, keepdim=True)


def _variance(x: Any, dims: _Dims, keepdim: bool, correction: float) -> Any:
    """The raw variance: the sum of squared deviations over (count - correction), which counts at least 0."""
    wide = x.astype("float32") if x.dtype.kind == "f" and x.dtype.itemsize == 2 else x
    d = _deviations(wide, dims)
    squares = (d * d.conj()).real if d.dtype.kind == "c" else d * d
    free = _count(x.shape, dims) - correction
    return squares.sum(axis=dims, keepdims=keepdim) * (1 / free if free > 0 else math.inf)


class Var(Function):
    """Variances over dimensions."""

    def forward(ctx: Any, x: Any, dims: _Dims, keepdim: bool, correction: float) -> Any:
        ctx.dims, ctx.keepdim, ctx.correction = dims, keepdim, correction
        ctx.save(x)
        return _variance(x, dims, keepdim, correction).astype(x.real.dtype, copy=False)

    def vjp(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved
        free = _count(x.shape, ctx.dims) - ctx.correction
        g = _spread(g * (2 / free if free > 0 else math.inf), x.shape, ctx.dims, ctx.keepdim)
        return g * _deviations(x, ctx.dims)


class Std(Function):
    """Standard deviations over dimensions; where one is 0 its gradient is 0."""

    def forward(ctx: Any, x: Any, dims: _Dims, keepdim: bool, correction: float) -> Any:
        ctx.dims, ctx.keepdim, ctx.correction = dims, keepdim, correction
        out = of(x).xp.asarray(of(x).xp.sqrt(_variance(x, dims, keepdim, correction)).astype(x.real.dtype, copy=False))
        ctx.save(x, out)
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        free = _count(x.shape, ctx.dims) - ctx.correction
        still = y == 0
        g = where(still, 0, g / where(still, 1, y)) * (1 / free if free > 0 else math.inf)
        return _spread(g, x.shape, ctx.dims, ctx.keepdim) * _deviations(x, ctx.dims)


class Prod(Function):
    """Products over one dimension; the gradient is right where factors are zero."""

    def forward(ctx: Any, x: Any, dim: int, keepdim: bool) -> Any:
        ctx.dim, ctx.keepdim = dim, keepdim
        ctx.save(x)
        return x.prod(axis=dim, keepdims=keepdim)

    def vjp(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved
        if not ctx.keepdim:
            g = unsqueeze(g, ctx.dim)
        return g * conj(product_of_others(x, ctx.dim))


class LogSumExp(Function):
    """log(sum(exp(x))) without overflow; -inf where all elements are."""

    name = "Logsumexp"

    def forward(ctx: Any, x: Any, dims: _Dims, keepdim: bool) -> Any:
        ctx.dims, ctx.keepdim = dims, keepdim
        xp = of(x).xp
        top = x.max(axis=dims, keepdims=True) if x.size else xp.zeros(_kept(x.shape, dims), x.dtype)
        top = xp.where(xp.isfinite(top), top, 0)
        total = _total(xp.exp(x - top), dims, True)
        empty = total == 0
        y = xp.where(empty, -math.inf, xp.log(xp.where(empty, 1, total)) + top).astype(x.dtype, copy=False)
        y = y if keepdim else y.reshape([n for i, n in enumerate(x.shape) if dims is not None and i not in dims])
        ctx.save(x, y)
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        y = y if ctx.keepdim else reshape(y, _kept(x.shape, ctx.dims))
        # -inf - -inf would be NaN: an element that is -inf has no part in the sum.
        return _spread(g, x.shape, ctx.dims, ctx.keepdim) * exp(x - where(y == -math.inf, 0, y))


class Norm(Function):
    """(sum |x|^p)^(1/p) for finite p > 0; where it is 0 its gradient is 0."""

    name = "LinalgVectorNorm"

    def forward(ctx: Any, x: Any, p: float, dims: _Dims, keepdim: bool) -> Any:
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
            return _spread(g, x.shape, ctx.dims, ctx.keepdim) * sign(x)
        still = y == 0
        divisor = where(still, 1, y)
        g = where(still, 0, g / (divisor if p == 2 else divisor ** (p - 1)))
        g = _spread(g, x.shape, ctx.dims, ctx.keepdim)
        if p == 2:
            return g * x
        zero = x == 0
        return g * where(zero, 0, sign(x) * absolute(where(zero, 1, x)) ** (p - 1))


class CountNonzero(Function):
    """The norm of order 0: how many elements are not zero, in the input's dtype."""

    name = "LinalgVectorNorm"

    def forward(ctx: Any, x: Any, dims: _Dims, keepdim: bool) -> Any:
        return (x != 0).sum(axis=dims, keepdims=keepdim).astype(x.real.dtype)

    def vjp(ctx: Any, g: Any) -> Any:
        return None


def _in_dtype(x: Any, dtype: Any, integers: str | None = None) -> Any:
    """x cast to a wanted dtype; without one, integers and booleans to `integers`."""
    target = dtype_of(dtype if dtype is not None else integers if x.dtype.kind in "biu" else None)
    return x if target is None or x.dtype == target else cast(x, target)


def _floating(name: str, x: Any, dtype: Any) -> Any:
    x = _in_dtype(x, dtype)
    if x.dtype.kind not in "fc":
        raise RuntimeError(f"{name}: takes floating or complex tensors, got {x.dtype}; cast with .to(), or give dtype=")
    return x


def sum(x: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum of the elements over `dim`; integers and booleans sum to int64."""
    dims = dims_of("sum", dim, len(x.shape))
    return Sum.apply(_in_dtype(x, dtype, "int64"), dims=dims, keepdim=keepdim)


def nansum(x: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum that counts NaN as zero, also in its gradient."""
    return sum(where(isnan(x), 0, x) if x.dtype.kind in "fc" else x, dim, keepdim, dtype=dtype)


def mean(x: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Mean over `dim`.

    Raises:
        RuntimeError: an integer tensor without `dtype`.
    """
    x = _floating("mean", x, dtype)
    dims = dims_of("mean", dim, len(x.shape))
    return Mean.apply(x, dims=dims, keepdim=keepdim)


def prod(x: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Product over `dim`; integers and booleans multiply to int64."""
    x = _in_dtype(x, dtype, "int64")
    shape = tuple(x.shape)
    if dim is None or not shape:
        if dim is not None:
            one_dim("prod", dim, 0)
        out = Prod.apply(flatten(x), dim=0, keepdim=False)
        return reshape(out, (1,) * len(shape)) if keepdim else out
    return Prod.apply(x, dim=one_dim("prod", dim, len(shape)), keepdim=keepdim)


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
    x = _floating("var", x, None)
    dims = dims_of("var", dim, len(x.shape))
    return Var.apply(x, dims=dims, keepdim=keepdim,
                     correction=_correction("var", correction, unbiased))


def std(x: Any, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: float | None = None) -> Any:
    """Standard deviation over `dim`, the root of `var`; its gradient at 0 is 0."""
    x = _floating("std", x, None)
    dims = dims_of("std", dim, len(x.shape))
    return Std.apply(x, dims=dims, keepdim=keepdim,
                     correction=_correction("std", correction, unbiased))


def logsumexp(x: Any, dim: Dims, keepdim: bool = False) -> Any:
    """log(sum(exp(x))) over `dim`, without overflow; -inf where all elements are -inf."""
    dims = dims_of("logsumexp", dim, len(x.shape))
    return LogSumExp.apply(_in_dtype(x, "float" if x.dtype.kind in "biu" else None), dims=dims, keepdim=keepdim)


def vector_norm(x: Any, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """(sum |x|^p)^(1/p) over `dim` for p = ord; inf and -inf take the largest and smallest |x|, 0 counts.

    The gradient where the norm is 0 is 0.

    Raises:
        RuntimeError: an integer tensor, or an infinite norm of no elements.
    """
    x = _floating("vector_norm", x, dtype)
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


def all(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Whether all elements over `dim` are nonzero: a boolean tensor."""
    return plain(x, of(raw(x)).xp.all(raw(x), axis=dims_of("all", dim, len(x.shape)), keepdims=keepdim))


def any(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Whether an element over `dim` is nonzero: a boolean tensor."""
    return plain(x, of(raw(x)).xp.any(raw(x), axis=dims_of("any", dim, len(x.shape)), keepdims=keepdim))


def count_nonzero(x: Any, dim: Dims = None) -> Any:
    """How many elements over `dim` are not zero: int64."""
    return plain(x, (raw(x) != 0).sum(axis=dims_of("count_nonzero", dim, len(x.shape)), dtype="int64"))


def sum_to_size(x: Any, size: Any) -> Any:
    """x summed to a shape from which it could have been broadcast.

    Raises:
        RuntimeError: it could not.
    """
    size = tuple(size)
    shape = tuple(x.shape)
    extra = len(shape) - len(size)
    if extra < 0 or not _broadcasts(size, shape[extra:]):
        raise RuntimeError(f"sum_to_size: shape {shape} is not a broadcast of {size}")
    dims = tuple(range(extra)) + tuple([i + extra for i, n in enumerate(size) if n == 1 and shape[i + extra] != 1])
    if dims:
        x = Sum.apply(x, dims=dims, keepdim=True)
    return reshape(x, size)


def _broadcasts(size: Shape, shape: Shape) -> bool:
    for want, have in zip(size, shape, strict=True):
        if want not in (have, 1):
            return False
    return True
