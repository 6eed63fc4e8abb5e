"""Sums, means and products over dimensions; `moments` has the variances and norms made of them.

float16 is summed in float32. `dim` is an integer, a tuple of them, or None for all dimensions.
"""

from __future__ import annotations

import math
from typing import Any

from .._typing import Dims, Shape
from ..backend import of
from ..backend.dtypes import dtype_of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._arguments import dims_of, number_of, one_dim, plain, raw
from ._declare import conj
from ._kernels import Kernels
from .cast import cast
from .cumulative import product_of_others
from .pointwise import isnan
from .select import where
from .views import expand, flatten, reshape, unsqueeze

__all__ = ["FoundDims", "Mean", "Prod", "Sum", "all", "any", "as_floating", "count_nonzero", "count_of", "in_dtype",
           "is_half", "kept_shape", "mean", "nansum", "prod", "raw_sum", "spread", "sum", "sum_to_size"]

FoundDims = tuple[int, ...] | None
_SMALL = 4096  # elements that are written faster than a view of stride 0 is made


def is_half(x: Any) -> bool:
    """Whether x is float16, which sums in float32."""
    return x.dtype.itemsize == 2 and x.dtype.kind == "f"


def raw_sum(x: Any, dims: FoundDims, keepdim: bool) -> Any:
    """The raw sum, accumulated in float32 for float16."""
    if is_half(x):
        return x.sum(axis=dims, dtype="float32", keepdims=keepdim)
    if dims is not None and not keepdim and x.dtype.kind == "f" and dims == tuple(range(len(dims))):
        return of(x).kernels.sum_leading(x, len(dims))
    return x.sum(axis=dims, keepdims=keepdim)


def kept_shape(shape: Shape, dims: FoundDims) -> Shape:
    """The shape with reduced dimensions of size one."""
    return tuple([1 if dims is None or i in dims else n for i, n in enumerate(shape)])


def spread(g: Any, shape: Shape, dims: FoundDims, keepdim: bool) -> Any:
    """A reduction's cotangent in the input's shape, without memory for it where that would be much."""
    if not isinstance(g, TensorBase) and number_of(shape) <= _SMALL:
        out = of(g).xp.empty(shape, g.dtype)
        out[...] = g if keepdim or dims is None else g.reshape(kept_shape(shape, dims))
        return out
    if not keepdim and dims is not None:
        g = reshape(g, kept_shape(shape, dims))
    return expand(g, shape)


def count_of(shape: Shape, dims: FoundDims) -> int:
    """How many elements each result of a reduction is made of."""
    return number_of(shape if dims is None else [shape[d] for d in dims])


def _overload(ctx: Any) -> int:
    """torch counts reductions of everything as overload 0, those over dimensions as 1."""
    return int(ctx.dims is not None)


class Sum(Function):
    """Sums over dimensions."""

    overload = staticmethod(_overload)

    def forward(ctx: Any, x: Any, dims: FoundDims, keepdim: bool) -> Any:
        ctx.dims, ctx.keepdim, ctx.inside = dims, keepdim, x.shape
        out = raw_sum(x, dims, keepdim)
        return out.astype(x.dtype) if is_half(x) else out

    def vjp(ctx: Any, g: Any) -> Any:
        return spread(g, ctx.inside, ctx.dims, ctx.keepdim)


class Mean(Function):
    """Means over dimensions."""

    overload = staticmethod(_overload)

    def forward(ctx: Any, x: Any, dims: FoundDims, keepdim: bool) -> Any:
        ctx.dims, ctx.keepdim, ctx.inside = dims, keepdim, x.shape
        count = count_of(x.shape, dims)
        total = raw_sum(x, dims, keepdim)
        return (total / count if count else total * math.nan).astype(x.dtype, copy=False)

    def vjp(ctx: Any, g: Any) -> Any:
        count = count_of(ctx.inside, ctx.dims)
        return spread(g / (count or 1), ctx.inside, ctx.dims, ctx.keepdim)


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


def in_dtype(x: Any, dtype: Any, integers: str | None = None) -> Any:
    """x cast to a wanted dtype; without one, integers and booleans to `integers`."""
    if dtype is None and x.dtype.kind in "fc":
        return x
    target = dtype_of(dtype if dtype is not None else integers if x.dtype.kind in "biu" else None)
    return x if target is None or x.dtype == target else cast(x, target)


def as_floating(name: str, x: Any, dtype: Any) -> Any:
    x = in_dtype(x, dtype)
    if x.dtype.kind not in "fc":
        raise RuntimeError(f"{name}: takes floating or complex tensors, got {x.dtype}; cast with .to(), or give dtype=")
    return x


def sum(x: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum of the elements over `dim`; integers and booleans sum to int64."""
    dims = dims_of("sum", dim, len(x.shape))
    return Sum.apply(in_dtype(x, dtype, "int64"), dims=dims, keepdim=keepdim)


def nansum(x: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum that counts NaN as zero, also in its gradient."""
    return sum(where(isnan(x), 0, x) if x.dtype.kind in "fc" else x, dim, keepdim, dtype=dtype)


def mean(x: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Mean over `dim`.

    Raises:
        RuntimeError: an integer tensor without `dtype`.
    """
    x = as_floating("mean", x, dtype)
    dims = dims_of("mean", dim, len(x.shape))
    return Mean.apply(x, dims=dims, keepdim=keepdim)


def prod(x: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Product over `dim`; integers and booleans multiply to int64."""
    x = in_dtype(x, dtype, "int64")
    shape = tuple(x.shape)
    if dim is None or not shape:
        if dim is not None:
            one_dim("prod", dim, 0)
        out = Prod.apply(flatten(x), dim=0, keepdim=False)
        return reshape(out, (1,) * len(shape)) if keepdim else out
    return Prod.apply(x, dim=one_dim("prod", dim, len(shape)), keepdim=keepdim)


def all(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Whether all elements over `dim` are nonzero: a boolean tensor."""
    return plain(x, of(raw(x)).xp.all(raw(x), axis=dims_of("all", dim, len(x.shape)), keepdims=keepdim))


def any(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Whether an element over `dim` is nonzero: a boolean tensor."""
    return plain(x, of(raw(x)).xp.any(raw(x), axis=dims_of("any", dim, len(x.shape)), keepdims=keepdim))


def count_nonzero(x: Any, dim: Dims = None) -> Any:
    """How many elements over `dim` are not zero: int64."""
    return plain(x, _count(raw(x), dims_of("count_nonzero", dim, len(x.shape))))


_count = Kernels(lambda xp, x, dims: (x != 0).sum(axis=dims, dtype="int64"))


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
