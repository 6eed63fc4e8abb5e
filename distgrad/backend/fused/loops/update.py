"""Updates of parameters, many of them in one call.

Over C pointers: no array objects, no allocation, nothing that can raise. `T` is float or double; scalars come in as
T, so arithmetic is that of the reference, operation by operation, and no fast-math flag lets a compiler change it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

__all__ = ["adam", "adam_max", "sgd", "sgd_momentum"]

TILE = 2048  # elements of a pass that a second pass finds in the cache again


@register_jitable(forceinline=True, error_model="numpy")
def _direction(p: Any, g: Any, factor: Any, decay: Any) -> Any:
    d = g * factor
    if decay != 0:
        d = d + p * decay
    return d


def adam(ps: Any, gs: Any, ms: Any, vs: Any, sizes: Any, count: int, factor: Any, decay: Any, shrink: Any, rest1: Any,
         beta2: Any, rest2: Any, root: Any, eps: Any, step: Any) -> None:
    """`shrink`: what decoupled decay multiplies p by; `rest1`, `rest2`: 1 - beta."""
    for t in range(count):
        p, g, m, v = ps[t], gs[t], ms[t], vs[t]
        for i in range(sizes[t]):
            x = p[i] * shrink
            d = _direction(x, g[i], factor, decay)
            mean = m[i] + (d - m[i]) * rest1
            square = v[i] * beta2 + d * d * rest2
            m[i] = mean
            v[i] = square
            p[i] = x - mean / (np.sqrt(square) / root + eps) * step


def adam_max(ps: Any, gs: Any, ms: Any, vs: Any, vmaxs: Any, sizes: Any, count: int, factor: Any, decay: Any,
             shrink: Any, rest1: Any, beta2: Any, rest2: Any, root: Any, eps: Any, step: Any) -> None:
    for t in range(count):
        p, g, m, v, vmax = ps[t], gs[t], ms[t], vs[t], vmaxs[t]
        for begin in range(0, sizes[t], TILE):
            end = begin + TILE
            if end > sizes[t]:
                end = sizes[t]
            for i in range(begin, end):
                x = p[i] * shrink
                d = _direction(x, g[i], factor, decay)
                p[i] = x
                m[i] = m[i] + (d - m[i]) * rest1
                v[i] = v[i] * beta2 + d * d * rest2
            for i in range(begin, end):
                square = v[i]
                most = vmax[i]
                most = square if square > most else most  # a NaN stays,
                vmax[i] = square if square != square else most  # and comes in
            for i in range(begin, end):
                p[i] = p[i] - m[i] / (np.sqrt(vmax[i]) / root + eps) * step


def sgd(ps: Any, gs: Any, sizes: Any, count: int, factor: Any, decay: Any, lr: Any) -> None:
    for t in range(count):
        p, g = ps[t], gs[t]
        for i in range(sizes[t]):
            p[i] = p[i] - _direction(p[i], g[i], factor, decay) * lr


def sgd_momentum(ps: Any, gs: Any, bufs: Any, sizes: Any, count: int, nesterov: int, first: int, factor: Any,
                 decay: Any, lr: Any, momentum: Any, rest: Any) -> None:
    """`rest`: 1 - dampening. At the first step `buf` is only written."""
    for t in range(count):
        p, g, buf = ps[t], gs[t], bufs[t]
        for i in range(sizes[t]):
            d = _direction(p[i], g[i], factor, decay)
            b = d
            if not first:
                b = buf[i] * momentum + d * rest
            buf[i] = b
            if nesterov:
                b = d + b * momentum
            p[i] = p[i] - b * lr
