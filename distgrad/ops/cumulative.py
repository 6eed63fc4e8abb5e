"""Running sums and products along a dimension.

Gradients of products divide by nothing, so zeros among the factors are no exception: they run a
first-order recurrence, whose gradient is another one.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..backend.dtypes import dtype_of
from ..graph.function import Function
from ._arguments import one_dim
from ._declare import conj
from .cast import cast
from .join import cat
from .pointwise import exp
from .rearrange import flip
from .views import narrow, transpose

__all__ = ["CumProd", "CumSum", "LinearScan", "LogCumSumExp", "cumprod", "cumsum", "logcumsumexp", "product_of_others"]


class CumSum(Function):
    """Running sums."""

    name = "Cumsum"

    def forward(ctx: Any, x: Any, dim: int) -> Any:
        ctx.dim = dim
        if x.dtype.itemsize == 2:
            return x.cumsum(axis=dim, dtype="float32").astype(x.dtype)
        return x.cumsum(axis=dim)

    def vjp(ctx: Any, g: Any) -> Any:
        return flip(CumSum.apply(flip(g, ctx.dim), dim=ctx.dim), ctx.dim)


class LinearScan(Function):
    """s[0] = b[0], s[i] = b[i] + a[i] * s[i - 1], along the last dimension; a[0] is not used."""

    def forward(ctx: Any, a: Any, b: Any) -> Any:
        out = of(b).kernels.linear_scan(a, b)
        ctx.save(a, out)
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        a, s = ctx.saved
        gb = _scan_back(conj(a), g)
        return gb * conj(_shifted(s, 0)) if ctx.needs(0) else None, gb


class CumProd(Function):
    """Running products."""

    name = "Cumprod"

    def forward(ctx: Any, x: Any, dim: int) -> Any:
        ctx.dim = dim
        ctx.save(x)
        return x.cumprod(axis=dim)

    def vjp(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved
        x, g = transpose(x, ctx.dim, -1), transpose(g, ctx.dim, -1)
        before = _shifted(CumProd.apply(x, dim=len(x.shape) - 1), 1)
        # Of the products from i on, x[i] is a factor of all; what is left of each follows a recurrence.
        return transpose(_scan_back(conj(x), g) * conj(before), ctx.dim, -1)


class LogCumSumExp(Function):
    """log of running sums of exp."""

    name = "Logcumsumexp"

    def forward(ctx: Any, x: Any, dim: int) -> Any:
        ctx.dim = dim
        out = of(x).kernels.logcumsumexp(x, dim)
        ctx.save(x, out)
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        x, y, g = (transpose(part, ctx.dim, -1) for part in (x, y, g))
        # t[i] = sum over k >= i of g[k] exp(y[i] - y[k]) by recurrence: each exponent is at most 0.
        decay = exp(_shifted(y, 0) - y)
        return transpose(_scan_back(decay, g) * exp(x - y), ctx.dim, -1)


def _shifted(x: Any, first: float) -> Any:
    """x moved by one place along the last dimension, with `first` in front."""
    size = x.shape[-1]
    head = narrow(x, -1, 0, min(size, 1)) * 0 + first
    return cat((head, narrow(x, -1, 0, max(size - 1, 0))), -1)


def _scan_back(a: Any, g: Any) -> Any:
    """r[n-1] = g[n-1], r[i] = g[i] + a[i+1] * r[i+1]."""
    size = a.shape[-1]
    following = cat((narrow(a, -1, min(size, 1), max(size - 1, 0)), narrow(a, -1, 0, min(size, 1))), -1)
    return flip(LinearScan.apply(flip(following, -1), flip(g, -1)), -1)


def product_of_others(x: Any, dim: int) -> Any:
    """For each element the product of all the others along `dim`: right where some are zero."""
    x = transpose(x, dim, -1)
    last = len(x.shape) - 1
    before = _shifted(CumProd.apply(x, dim=last), 1)
    after = flip(_shifted(CumProd.apply(flip(x, last), dim=last), 1), last)
    return transpose(before * after, dim, -1)


def _prepared(name: str, x: Any, dim: int, dtype: Any) -> tuple[Any, int]:
    target = dtype_of(dtype if dtype is not None else "int64" if x.dtype.kind in "biu" else None)
    return x if target is None or x.dtype == target else cast(x, target), one_dim(name, dim, len(x.shape))


def cumsum(x: Any, dim: int, *, dtype: Any = None) -> Any:
    """Running sums along `dim`; integers and booleans sum to int64."""
    x, at = _prepared("cumsum", x, dim, dtype)
    return CumSum.apply(x, dim=at) if len(x.shape) else x * 1


def cumprod(x: Any, dim: int, *, dtype: Any = None) -> Any:
    """Running products along `dim`; integers and booleans multiply to int64."""
    x, at = _prepared("cumprod", x, dim, dtype)
    return CumProd.apply(x, dim=at) if len(x.shape) else x * 1


def logcumsumexp(x: Any, dim: int) -> Any:
    """log of the running sums of exp(x) along `dim`, without overflow.

    Raises:
        NotImplementedError: an integer tensor.
    """
    if x.dtype.kind != "f":
        raise NotImplementedError(f"logcumsumexp: takes floating tensors, got {x.dtype}")
    at = one_dim("logcumsumexp", dim, len(x.shape))
    return LogCumSumExp.apply(x, dim=at) if len(x.shape) else x * 1
