"""Changing the element type, inside the graph."""

from __future__ import annotations

from typing import Any

from .._typing import DType
from ..graph.function import Function

__all__ = ["Cast", "cast"]


class Cast(Function):
    """Elements in another dtype; the gradient comes back in the input's."""

    name = "ToCopy"
    fresh = False

    def forward(ctx: Any, x: Any, dtype: DType) -> Any:
        if x.dtype.kind == "c" and dtype.kind != "c":
            x = x.real
        return x.astype(dtype)

    def vjp(ctx: Any, g: Any) -> Any:
        return g  # the engine brings a gradient to its sink's dtype


def cast(x: Any, dtype: DType) -> Any:
    """`x` in another dtype: a new tensor, recorded."""
    return Cast.apply(x, dtype=dtype)
