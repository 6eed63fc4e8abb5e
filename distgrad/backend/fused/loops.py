"""The loops that numba compiles, over C pointers: no array objects, no allocation, nothing that can raise.

`T` is float or double; scalars come in as T, so arithmetic is that of the reference, operation by
operation, and no fast-math flag lets a compiler change it. `native.SIGNATURES` says the arguments' types.
Loops touch few arrays each: with more, the compiler gives up proving that they do not overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

__all__ = ["adam", "adam_max", "mean_of_ranks", "norm_blocks", "sgd", "sgd_momentum"]

_part = register_jitable(forceinline=True, error_model="numpy")
LANES = 256  # running sums of squares side by side: they vectorise without changing the order of any sum
TILE = 2048  # elements of a pass that a second pass finds in the cache again


@_part
def _squares(x: Any, begin: int, end: int, lanes: Any) -> Any:
    """The sum of x[i] ** 2 in float64. Lane i % 256 takes element i, in order; then halves of lanes are added."""
    for j in range(LANES):
        lanes[j] = 0.0
    whole = end - (end - begin) % LANES
    for i in range(begin, whole, LANES):
        for j in range(LANES):
            a = np.float64(x[i + j])
            lanes[j] = lanes[j] + a * a
    for j in range(end - whole):
        a = np.float64(x[whole + j])
        lanes[j] = lanes[j] + a * a
    width = LANES // 2
    while width:
        for j in range(width):
            lanes[j] = lanes[j] + lanes[j + width]
        width //= 2
    return lanes[0]


def norm_blocks(x: Any, out: Any, lanes: Any, size: int, grid: int) -> None:
    for block in range((size + grid - 1) // grid):
        begin = block * grid
        end = begin + grid
        if end > size:
            end = size
        out[block] = _squares(x, begin, end, lanes)


@_part
def _sum_block(flats: Any, total: Any, ranks: int, begin: int, grid: int) -> None:
    first = flats[0]
    if ranks == 1:
        for i in range(grid):
            total[i] = first[begin + i]
    else:
        second = flats[1]
        for i in range(grid):
            total[i] = first[begin + i] + second[begin + i]
    for r in range(2, ranks):
        other = flats[r]
        for i in range(grid):
            total[i] = total[i] + other[begin + i]


def mean_of_ranks(flats: Any, outs: Any, partials: Any, sums: Any, total: Any, lanes: Any, ranks: int, targets: int,
                  copies: int, keep: int, more: int, size: int, grid: int, exact: int, divisor: Any,
                  inverse: Any) -> None:
    """`exact`: the divisor is a power of two, so that times `inverse` has the bits of a division."""
    mean = outs[0]
    for block in range(size // grid):
        begin = block * grid
        _sum_block(flats, total, ranks, begin, grid)
        if keep:
            if more:
                for i in range(grid):
                    total[i] = sums[begin + i] + total[i]
            for i in range(grid):
                sums[begin + i] = total[i]
        if exact:
            for i in range(grid):
                mean[begin + i] = total[i] * inverse
        else:
            for i in range(grid):
                mean[begin + i] = total[i] / divisor
        for r in range(1, targets):
            other = outs[r]
            for i in range(begin, begin + grid):
                other[i] = mean[i]
        value = _squares(mean, begin, begin + grid, lanes)
        for r in range(copies):
            partial = partials[r]
            partial[block] = value


@_part
def _direction(p: Any, g: Any, factor: Any, decay: Any) -> Any:
    d = g * factor
    if decay != 0:
        d = d + p * decay
    return d


def adam(p: Any, g: Any, m: Any, v: Any, size: int, factor: Any, decay: Any, shrink: Any, rest1: Any, beta2: Any,
         rest2: Any, root: Any, eps: Any, step: Any) -> None:
    """`shrink`: what decoupled decay multiplies p by; `rest1`, `rest2`: 1 - beta."""
    for i in range(size):
        x = p[i] * shrink
        d = _direction(x, g[i], factor, decay)
        mean = m[i] + (d - m[i]) * rest1
        square = v[i] * beta2 + d * d * rest2
        m[i] = mean
        v[i] = square
        p[i] = x - mean / (np.sqrt(square) / root + eps) * step


def adam_max(p: Any, g: Any, m: Any, v: Any, vmax: Any, size: int, factor: Any, decay: Any, shrink: Any, rest1: Any,
             beta2: Any, rest2: Any, root: Any, eps: Any, step: Any) -> None:
    for begin in range(0, size, TILE):
        end = begin + TILE
        if end > size:
            end = size
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


def sgd(p: Any, g: Any, size: int, factor: Any, decay: Any, lr: Any) -> None:
    for i in range(size):
        p[i] = p[i] - _direction(p[i], g[i], factor, decay) * lr


def sgd_momentum(p: Any, g: Any, buf: Any, size: int, nesterov: int, first: int, factor: Any, decay: Any, lr: Any,
                 momentum: Any, rest: Any) -> None:
    """`rest`: 1 - dampening. At the first step `buf` is only written."""
    for i in range(size):
        d = _direction(p[i], g[i], factor, decay)
        b = d
        if not first:
            b = buf[i] * momentum + d * rest
        buf[i] = b
        if nesterov:
            b = d + b * momentum
        p[i] = p[i] - b * lr
