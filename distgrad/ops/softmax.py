"""Softmax and log-softmax along a dimension, as pairs of kernels; second derivatives by plain rules."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..backend.dtypes import dtype_of
from ..graph.base import TensorBase
from ..graph.function import Function
from . import reduce
from ._arguments import one_dim
from ._checks import check_floating
from .cast import cast
from .pointwise import exp

__all__ = ["LogSoftmax", "Softmax", "log_softmax", "softmax"]


class Softmax(Function):
    """exp(x) / sum(exp(x)) along dim."""

    def forward(ctx: Any, x: Any, dim: int) -> Any:
        y = of(x).kernels.softmax(x, dim)
        ctx.save(y)
        ctx.dim = dim
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved
        if isinstance(g, TensorBase):
            gy = g * y
            return gy - y * reduce.sum(gy, ctx.dim, True)
        return of(y).kernels.softmax_backward(g, y, ctx.dim)


class LogSoftmax(Function):
    """x - log(sum(exp(x))) along dim."""

    def forward(ctx: Any, x: Any, dim: int) -> Any:
        y = of(x).kernels.log_softmax(x, dim)
        ctx.save(y)
        ctx.dim = dim
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved
        if isinstance(g, TensorBase):
            return g - exp(y) * reduce.sum(g, ctx.dim, True)
        return of(y).kernels.log_softmax_backward(g, y, ctx.dim)


def _prepared(name: str, x: Any, dim: int, dtype: Any) -> tuple[Any, int]:
    if dtype is not None and x.dtype != dtype_of(dtype):
        x = cast(x, dtype_of(dtype))
    check_floating(name, x)
    return x, one_dim(name, dim, len(x.shape))


def softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    """Positive numbers that sum to one along `dim`: exp(x) / sum(exp(x)).

    A row of -inf throughout gives NaN.

    Args:
        dtype: what to convert the input to first.

    Raises:
        IndexError: `dim` is out of range.
        NotImplementedError: the dtype is not floating.
    """
    x, dim = _prepared("softmax", input, dim, dtype)
    return x * 0 + 1 if not x.shape else Softmax.apply(x, dim=dim)


def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    """The logarithm of softmax along `dim`, without its underflow: x - log(sum(exp(x)))."""
    x, dim = _prepared("log_softmax", input, dim, dtype)
    return x * 0 if not x.shape else LogSoftmax.apply(x, dim=dim)
