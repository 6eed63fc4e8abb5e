"""Kernels over elements that lie in a line: activations and their slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy

from .launch import fits, over_lines, plain

__all__ = ["gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "in_range", "log_sigmoid",
           "probabilities", "relu_backward", "sigmoid", "sigmoid_backward", "silu", "tanh_backward"]


def _unary(name: str) -> Callable[[Any], Any]:
    def override(x: Any) -> Any:
        if not fits(x):
            return plain(name, x)(x)
        y = cupy.empty_like(x)
        over_lines("lines", name, x.dtype, x.size, x, y, x.size)
        return y

    return override


def _slope(name: str) -> Callable[[Any, Any], Any]:
    """g times the derivative; None for arrays that it does not take, as such kernels answer."""

    def override(g: Any, x: Any) -> Any:
        if g.shape != x.shape or not fits(g, x):
            return None
        gx = cupy.empty_like(x)
        over_lines("lines", name, x.dtype, x.size, g, x, gx, x.size)
        return gx

    return override


gelu, gelu_tanh, log_sigmoid, sigmoid, silu = (
    _unary(name) for name in ("gelu", "gelu_tanh", "log_sigmoid", "sigmoid", "silu"))
gelu_backward, gelu_tanh_backward, relu_backward, sigmoid_backward, tanh_backward = (
    _slope(f"{name}_backward") for name in ("gelu", "gelu_tanh", "relu", "sigmoid", "tanh"))


def in_range(index: Any, low: int, high: int) -> bool:
    """Yes: asking would mean to wait for the device. cupy takes an index that is out of range modulo the size."""
    return True


def probabilities(x: Any) -> bool:
    """Yes, for the same reason; a logarithm of what is none is NaN."""
    return True
