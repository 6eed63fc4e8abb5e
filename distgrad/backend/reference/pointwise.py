"""Elementwise functions that are more than one call of xp."""

from __future__ import annotations

import math
from typing import Any

from ..base import of
from ._register import kernel

__all__ = ["erf", "gelu", "gelu_tanh", "log_sigmoid", "relu", "sigmoid", "silu"]


@kernel
def erf(xp: Any, x: Any) -> Any:
    """The error function, in x's dtype."""
    return of(x).special.erf(x).astype(x.dtype, copy=False)


@kernel
def sigmoid(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    if x.dtype.kind == "c":
        return 1 / (1 + xp.exp(-x))
    return of(x).special.expit(x).astype(x.dtype, copy=False)


@kernel
def relu(xp: Any, x: Any) -> Any:
    """max(x, 0)."""
    return xp.maximum(x, 0)


@kernel
def silu(xp: Any, x: Any) -> Any:
    """x * sigmoid(x)."""
    return x * sigmoid(xp, x)


@kernel
def log_sigmoid(xp: Any, x: Any) -> Any:
    """log(sigmoid(x)) = min(x, 0) - log1p(exp(-|x|)): the exponent is never positive."""
    return xp.minimum(x, 0) - xp.log1p(xp.exp(-xp.abs(x)))


@kernel
def gelu(xp: Any, x: Any) -> Any:
    """x times the cdf of the normal distribution at x."""
    return x * (0.5 * (1 + erf(xp, x * math.sqrt(0.5))))


@kernel
def gelu_tanh(xp: Any, x: Any) -> Any:
    """The tanh approximation of gelu (Hendrycks and Gimpel, 2016)."""
    return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
