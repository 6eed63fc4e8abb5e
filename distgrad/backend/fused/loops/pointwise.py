"""Elementwise functions and what their derivatives make of a cotangent, a vector at a time.

The last vector ends where the array ends, and may repeat what the one before it did: arrays have at least WIDTH
elements, and none of those that are read is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import activation_vectors as activations
from .. import vector_math
from ..vectors import WIDTH, load, store

__all__ = ["erf", "exp", "gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "log_sigmoid",
           "log_sigmoid_backward", "relu", "relu_backward", "sigmoid", "sigmoid_backward", "silu", "silu_backward",
           "tanh", "tanh_backward"]


def _forward(function: Any) -> Callable[..., None]:
    def loop(x: Any, y: Any, size: int) -> None:
        for i in range(0, size, WIDTH):
            at = i
            if at > size - WIDTH:
                at = size - WIDTH
            store(function(load(x, at)), y, at)

    return loop


def _backward(slope: Any) -> Callable[..., None]:
    def loop(g: Any, x: Any, gx: Any, size: int) -> None:
        for i in range(0, size, WIDTH):
            at = i
            if at > size - WIDTH:
                at = size - WIDTH
            store(slope(load(g, at), load(x, at)), gx, at)

    return loop


exp = _forward(vector_math.exp)
tanh = _forward(vector_math.tanh)
sigmoid = _forward(vector_math.sigmoid)
erf = _forward(vector_math.erf)
relu = _forward(activations.relu)
silu = _forward(activations.silu)
log_sigmoid = _forward(activations.log_sigmoid)
gelu = _forward(activations.gelu)
gelu_tanh = _forward(activations.gelu_tanh)
tanh_backward = _backward(activations.tanh_slope)
sigmoid_backward = _backward(activations.sigmoid_slope)
relu_backward = _backward(activations.relu_slope)
silu_backward = _backward(activations.silu_slope)
log_sigmoid_backward = _backward(activations.log_sigmoid_slope)
gelu_backward = _backward(activations.gelu_slope)
gelu_tanh_backward = _backward(activations.gelu_tanh_slope)
