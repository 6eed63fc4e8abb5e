"""The loops that numba compiles, over C pointers: no array objects, no allocation, nothing that can raise.

`T` is float or double; scalars come in as T, so arithmetic is that of the reference, operation by
operation, and no fast-math flag lets a compiler change it. `native.SIGNATURES` says the arguments' types.
Loops touch few arrays each: with more, the compiler gives up proving that they do not overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from .vectors import WIDTH, add, divide, fill, load, multiply, squares, store, sum_lanes

__all__ = ["adam", "adam_max", "mean_of_ranks", "norm_blocks", "sgd", "sgd_momentum", "sum_of_ranks", "watch"]

_part = register_jitable(forceinline=True, error_model="numpy")
TILE = 2048  # elements of a pass that a second pass finds in the cache again


def norm_blocks(x: Any, out: Any, tail: Any, size: int, grid: int) -> None:
    """`tail`: room for one vector, zeros, for what is left of the last block."""
    for block in range((size + grid - 1) // grid):
        begin = block * grid
        end = begin + grid
        if end > size:
            end = size
        whole = end - (end - begin) % WIDTH
        total = fill(0.0)
        for i in range(begin, whole, WIDTH):
            total = squares(total, load(x, i))
        if whole < end:
            for i in range(whole, end):
                tail[i - whole] = x[i]
            total = squares(total, load(tail, 0))
        out[block] = sum_lanes(total)


def mean_of_ranks(flats: Any, outs: Any, partials: Any, sums: Any, ranks: int, targets: int, copies: int, keep: int,
                  more: int, size: int, grid: int, exact: int, divisor: Any, inverse: Any) -> None:
    """`exact`: the divisor is a power of two, so that times `inverse` has the bits of a division."""
    by, times = fill(divisor), fill(inverse)
    for block in range(size // grid):
        total = fill(0.0)
        for i in range(block * grid, (block + 1) * grid, WIDTH):
            mean = load(flats[0], i)
            for r in range(1, ranks):
                mean = add(mean, load(flats[r], i))
            if keep:
                if more:
                    mean = add(load(sums, i), mean)
                store(mean, sums, i)
            if exact:
                mean = multiply(mean, times)
            else:
                mean = divide(mean, by)
            for r in range(targets):
                store(mean, outs[r], i)
            total = squares(total, mean)
        value = sum_lanes(total)
        for r in range(copies):
            partial = partials[r]
            partial[block] = value


def sum_of_ranks(flats: Any, out: Any, ranks: int, size: int) -> None:
    for i in range(0, size, WIDTH):
        total = load(flats[0], i)
        for r in range(1, ranks):
            total = add(total, load(flats[r], i))
        store(total, out, i)


@_part
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


@intrinsic  # type: ignore[misc]
def _look(typing: Any, row: Any, column: Any) -> Any:
    """row[column] as it is now: an atomic load, which no compiler moves out of a loop."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 8)

    return types.int64(row, column), code


@intrinsic  # type: ignore[misc]
def _pause(typing: Any) -> Any:
    """Tell an x86 processor that this loop only waits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        return context.get_dummy_value()

    return types.none(), code


_offer_core = types.ExternalFunction("sched_yield", types.int32())


def watch(rows: Any, found: Any, first: int, last: int, column: int, value: int, looks: int, yields: int) -> None:
    """found[0]: whether rows [first, last) have come to `value`, after `looks` looks between two of `yields` yields."""
    found[0] = 0
    for turn in range(yields + 1):
        if turn:
            _offer_core()
        for _ in range(looks):
            r = first
            while r < last and _look(rows[r], column) >= value:
                r += 1
            if r == last:
                found[0] = 1
                return
            _pause()
