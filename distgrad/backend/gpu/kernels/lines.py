"""Kernels over elements that lie in a line: activations, the update of parameters, sums of squares by blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cupy

from .launch import fits, over_lines, over_rows, plain

__all__ = ["adam_", "adam_plan", "gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "in_range", "log_sigmoid",
           "norm_blocks", "relu_backward", "sgd_", "sgd_plan", "sigmoid", "sigmoid_backward", "silu", "tanh_backward"]


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


def norm_blocks(flat: Any, norm_type: float, grid: int) -> Any:
    if norm_type != 2 or not flat.size or not fits(flat):
        return plain("norm_blocks", flat)(flat, norm_type, grid)
    blocks = -(-flat.size // grid)
    out = cupy.empty(blocks, "float64")
    over_rows("squares", flat.dtype, blocks, 256, flat, flat.size, grid, out)
    return out


# -- the update

def sgd_(p: Any, g: Any, buf: Any, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
         first: bool, factor: float) -> None:
    if not fits(p, g, buf):
        plain("sgd_", p)(p, g, buf, lr, momentum, dampening, weight_decay, nesterov, first, factor)
        return
    over_lines("lines", "sgd", p.dtype, p.size, p, g, buf, p.size, float(lr), float(momentum), float(1 - dampening),
               float(weight_decay), bool(nesterov), bool(first), float(factor))


def adam_(p: Any, g: Any, m: Any, v: Any, vmax: Any, lr: float, beta1: float, beta2: float, eps: float,
          weight_decay: float, decoupled: bool, step: int, factor: float) -> None:
    if not fits(p, g, m, v, vmax):
        plain("adam_", p)(p, g, m, v, vmax, lr, beta1, beta2, eps, weight_decay, decoupled, step, factor)
        return
    kept, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, float(weight_decay))
    over_lines("lines", "adam", p.dtype, p.size, p, g, m, v, vmax, p.size, float(1 - beta1), float(beta2),
               float(1 - beta2), float(eps), float(kept), decay, float(lr / (1 - beta1 ** step)),
               math.sqrt(1 - beta2 ** step), float(factor))


def sgd_plan(ps: Sequence[Any], bufs: Sequence[Any] | None) -> Callable[..., None]:
    def run(gs: Sequence[Any], *options: Any) -> None:
        for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
            sgd_(p, g, None if bufs is None else bufs[i], *options)

    return run


def adam_plan(ps: Sequence[Any], ms: Sequence[Any], vs: Sequence[Any],
              vmaxs: Sequence[Any] | None) -> Callable[..., None]:
    def run(gs: Sequence[Any], *options: Any) -> None:
        for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
            adam_(p, g, ms[i], vs[i], None if vmaxs is None else vmaxs[i], *options)

    return run
