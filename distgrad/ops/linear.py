"""The affine map y = x W^T + b. Its second derivatives are affine maps again."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ..graph.room import room_for
from . import reduce
from ._checks import check_same_dtype
from .shape import reshape, transpose

__all__ = ["Linear", "linear"]


class Linear(Function):
    """x (..., in) @ weight (out, in).T + bias (out,)."""

    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        ctx.save(x, weight)
        return of(x).kernels.linear(x, weight, bias)

    def vjp(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved
        to_x, to_weight, to_bias = ctx.edges
        gx = gw = gb = None
        if not isinstance(g, TensorBase):
            kernels = of(g).kernels
            if to_x is not None:
                gx = kernels.linear_grad_input(g, weight)
            if to_weight is not None:
                gw = kernels.linear_grad_weight(g, x, room_for(ctx, to_weight))
            if to_bias is not None:
                gb = kernels.sum_leading(g, g.ndim - 1)
            return gx, gw, gb
        rows = reshape(g, (-1, g.shape[-1]))
        if to_x is not None:
            gx = linear(g, transpose(weight, 0, 1))
        if to_weight is not None:  # rows.T @ x, where `linear` transposes its weight once more
            gw = linear(transpose(rows, 0, 1), transpose(reshape(x, (-1, x.shape[-1])), 0, 1))
        if to_bias is not None:
            gb = reduce.sum(rows, 0)
        return gx, gw, gb


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """input @ weight.T + bias.

    Args:
        input: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out).

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    if not input.shape or len(weight.shape) != 2 or input.shape[-1] != weight.shape[1]:
        raise RuntimeError(f"linear: an input of shape {tuple(input.shape)} does not fit a weight of shape "
                           f"{tuple(weight.shape)}; they must be (..., in) and (out, in)")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise RuntimeError(f"linear: the bias has shape {tuple(bias.shape)}, but the weight of shape "
                           f"{tuple(weight.shape)} gives {weight.shape[0]} outputs")
    check_same_dtype("linear", input, weight=weight, bias=bias)
    return Linear.apply(input, weight, bias)
