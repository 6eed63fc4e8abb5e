"""Activations composed of a few ops; those that have an op of their own are in `ops`.

Slopes where two pieces meet are torch's: 0 at both ends of hardtanh, the lower piece's in elu.
"""

from __future__ import annotations

from typing import Any

from ..ops.pointwise import abs as absolute
from ..ops.pointwise import expm1, sigmoid, sign, softplus, tanh
from ..ops.select import clamp, where
from ..ops.shape import chunk, reshape

__all__ = ["celu", "elu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "mish", "prelu", "relu6", "selu",
           "softshrink", "softsign", "tanhshrink", "threshold"]

# Klambauer et al., 2017: the values for which mean 0 and variance 1 are a fixed point.
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, else alpha * (exp(x) - 1)."""
    return where(x > 0, x, expm1(clamp(x, max=0)) * alpha)


def celu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, else alpha * (exp(x / alpha) - 1).

    Raises:
        RuntimeError: alpha is 0.
    """
    if alpha == 0:
        raise RuntimeError("celu: alpha must not be 0")
    return where(x > 0, x, expm1(clamp(x / alpha, max=0)) * alpha)


def selu(x: Any) -> Any:
    """elu with a fixed alpha and scale, which keep activations near mean 0 and variance 1."""
    return elu(x, _SELU_ALPHA) * _SELU_SCALE


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """x brought into [min_val, max_val]; the slope is 0 at both ends."""
    return where((x > min_val) & (x < max_val), x, clamp(x.detach(), min_val, max_val))


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Any) -> Any:
    """min(max(x + 3, 0), 6) / 6."""
    return relu6(x + 3) / 6


def hardswish(x: Any) -> Any:
    """x * hardsigmoid(x)."""
    return x * hardsigmoid(x)


def mish(x: Any) -> Any:
    """x * tanh(softplus(x))."""
    return x * tanh(softplus(x))


def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (1 + absolute(x))


def tanhshrink(x: Any) -> Any:
    """x - tanh(x)."""
    return x - tanh(x)


def softshrink(x: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by lambd, and 0 within.

    Raises:
        RuntimeError: lambd is negative.
    """
    if lambd < 0:
        raise RuntimeError(f"softshrink: lambd is not negative, got {lambd}")
    return where(absolute(x) > lambd, x - sign(x.detach()) * lambd, x * 0)


def hardshrink(x: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, else 0."""
    return where(absolute(x) > lambd, x, 0.0)


def threshold(x: Any, threshold: float, value: float) -> Any:
    """x where x > threshold, else value."""
    return where(x > threshold, x, value)


def glu(x: Any, dim: int = -1) -> Any:
    """a * sigmoid(b) for the halves a, b of x along `dim`.

    Raises:
        RuntimeError: `dim` has an odd size.
    """
    if not x.shape or x.shape[dim] % 2:
        raise RuntimeError(f"glu: halves dim {dim}, whose size must be even, of shape {tuple(x.shape)}")
    a, b = chunk(x, 2, dim)
    return a * sigmoid(b)


def prelu(x: Any, weight: Any) -> Any:
    """x where positive, else weight * x; weight has one element, or one for each channel (dimension 1).

    Raises:
        RuntimeError: the number of weights is neither 1 nor that of channels.
    """
    count = weight.shape[0] if weight.shape else 1
    if count != 1:
        channels = x.shape[1] if len(x.shape) > 1 else 1
        if count != channels:
            raise RuntimeError(f"prelu: {count} weights for {channels} channels of an input of shape {tuple(x.shape)}")
        weight = reshape(weight, (1, count, *(1,) * (len(x.shape) - 2)))
    return where(x > 0, x, x * weight)
