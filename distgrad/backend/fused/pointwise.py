"""Elementwise functions in one pass, and the gradients that they pass on in another.

A backward kernel has no reference: it is what the op's own derivative says, and answers None where these arrays are
not for it. Small arrays go to numpy, which starts sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..reference import pointwise as reference
from ._dense import Loops, dense, place, together

__all__ = ["erf", "exp", "gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "log_sigmoid",
           "log_sigmoid_backward", "relu", "relu_backward", "sigmoid", "sigmoid_backward", "silu", "silu_backward",
           "tanh", "tanh_backward"]

_LEAST = 32  # elements that a loop can take: one vector


def _forward(name: str, plain: Callable[[Any], Any], least: int) -> Callable[[Any], Any]:
    loops = Loops("pointwise", name, "TTn")

    def kernel(x: Any) -> Any:
        size = x.size
        loop = loops[x.dtype] if size >= least else None
        if loop is None or not dense(x):
            return plain(x)
        y = np.empty_like(x)
        loop(place(x), place(y), size)
        return y

    return kernel


def _backward(name: str, least: int) -> Callable[[Any, Any], Any]:
    loops = Loops("pointwise", name, "TTTn")

    def kernel(g: Any, kept: Any) -> Any:
        size = kept.size
        loop = loops[kept.dtype] if size >= least else None
        if loop is None or not together(g, kept):
            return None
        gx = np.empty_like(kept)
        loop(place(g), place(kept), place(gx), size)
        return gx

    return kernel


exp = _forward("exp", np.exp, 1536)
tanh = _forward("tanh", np.tanh, 768)
sigmoid = _forward("sigmoid", partial(reference.sigmoid, np), 256)
erf = _forward("erf", partial(reference.erf, np), 256)
relu = _forward("relu", partial(reference.relu, np), 2048)
silu = _forward("silu", partial(reference.silu, np), 64)
log_sigmoid = _forward("log_sigmoid", partial(reference.log_sigmoid, np), _LEAST)
gelu = _forward("gelu", partial(reference.gelu, np), _LEAST)
gelu_tanh = _forward("gelu_tanh", partial(reference.gelu_tanh, np), _LEAST)
tanh_backward = _backward("tanh_backward", 2048)
sigmoid_backward = _backward("sigmoid_backward", 2048)
relu_backward = _backward("relu_backward", 256)
silu_backward = _backward("silu_backward", _LEAST)
log_sigmoid_backward = _backward("log_sigmoid_backward", _LEAST)
gelu_backward = _backward("gelu_backward", _LEAST)
gelu_tanh_backward = _backward("gelu_tanh_backward", _LEAST)
