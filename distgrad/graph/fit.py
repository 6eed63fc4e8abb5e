"""Gradients in the shape and dtype of what they belong to: broadcasting undone, once, for all rules."""

from __future__ import annotations

from typing import Any

from ..backend import of
from .base import TensorBase

__all__ = ["fit", "sum_to"]


def fit(g: Any, shape: tuple[int, ...], dtype: Any, node: Any = None) -> Any:
    """A gradient in the shape and dtype of what it belongs to: broadcast dimensions are summed.

    Raises:
        RuntimeError: the shapes do not belong together; names the node that returned it.
    """
    if g.shape != shape:
        given = tuple(g.shape)
        extra = len(given) - len(shape)
        pairs = zip(given[extra:], shape, strict=True) if extra >= 0 else ()
        if extra < 0 or any(have != want and want != 1 for have, want in pairs):
            source = "a gradient" if node is None else f"{node.name()} returned a gradient that"
            raise RuntimeError(f"{source} has shape {given}, but its tensor has shape {tuple(shape)}")
        g = sum_to(g, shape)
    if g.dtype != dtype:
        if g.dtype.kind == "c" and dtype.kind != "c":
            g = g.real
        if g.dtype != dtype:
            g = g.astype(dtype) if not isinstance(g, TensorBase) else _cast(g, dtype)
    return g


def _cast(g: Any, dtype: Any) -> Any:
    """A tensor in another dtype, recorded."""
    return g.to(dtype)


def sum_to(g: Any, shape: tuple[int, ...]) -> Any:
    """Sum a broadcast gradient over the dimensions that broadcasting added or stretched."""
    if isinstance(g, TensorBase):
        recorded: Any = g
        return recorded.sum_to_size(shape)
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    if axes and axes == tuple(range(len(axes))):
        g = of(g).kernels.sum_leading(g, len(axes))
    elif axes:
        wide = "float32" if g.dtype.kind == "f" and g.dtype.itemsize == 2 else None  # float16 sums overflow
        g = g.sum(axis=axes, keepdims=True, dtype=wide).astype(g.dtype, copy=False)
    return g.reshape(shape)
