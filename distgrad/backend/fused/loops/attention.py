"""Attention, a head at a time and a block of queries at a time: scores, softmax and the products around it.

Over C pointers: no array objects, no allocation, nothing that can raise. Batch and head have strides of their own, so
that queries, keys and values are taken as a projection leaves them; `strides` has four numbers for each array, (batch,
head, row, column). With `causal`, query i looks at keys 0 to i, and tiles above the diagonal are left out.

[Note: rest] Rows of scores lie in `scratch` every `pitch` elements, a multiple of WIDTH. Of row i, the first
`_limit` are scores; up to the next multiple of WIDTH they are set to -inf (their gradients to 0), so that vectors need
no rest and products may take a few columns too many. Other rows are copied to rows of whole `lanes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..attention_vectors import begun
from ..move_vectors import SIDE, clear, copy, turn
from ..row_vectors import inlined, largest, lowest, maximum, read, zeros
from ..tiles import (
    ROWS,
    lanes,
    least,
    multiply_add,
    nothing,
    read_lanes,
    read_tile,
    rows,
    scale,
    spread_lanes,
    write_lanes,
    write_tile,
)
from ..vector_math import exp
from ..vectors import WIDTH, add, fill, load, multiply, store, sum_lanes

__all__ = ["attention", "attention_backward"]

BLOCK = 48  # queries; a multiple of ROWS


@inlined
def _whole(count: int, unit: int) -> int:
    """The next multiple of a unit."""
    return (count + unit - 1) // unit * unit


@inlined
def _limit(i: int, keys: int, causal: int) -> int:
    """How many keys query i looks at."""
    return i + 1 if causal and i + 1 < keys else keys


@inlined
def _reach(i: int, begin: int, keys: int, causal: int) -> int:
    """How many keys the tile of queries looks at that query i is in, in the block from `begin`."""
    return _limit(i - (i - begin) % ROWS + ROWS - 1, keys, causal)


@inlined
def _head(strides: Any, array: int, batch: int, head: int) -> int:
    """Where a head begins."""
    return batch * strides[4 * array] + head * strides[4 * array + 1]


@inlined
def _turned(x: Any, at: int, stride: int, count: int, width: int, out: Any, to: int, pitch: int) -> None:
    """Rows as columns; behind them, the last row again until the lanes are full."""
    for j in range(0, count, lanes(x)):
        whole = width - width % SIDE if j + lanes(x) <= count else 0
        for i in range(j, j + lanes(x), SIDE):
            for e in range(0, whole, SIDE):
                turn(x, at + i * stride + e, stride, out, to + e * pitch + i, pitch)
        for e in range(whole, width):
            row = spread_lanes(x, at + j * stride + e, stride, at + (count - 1) * stride + e)
            write_lanes(row, out, to + e * pitch + j)


@inlined
def _copied(x: Any, at: int, stride: int, count: int, width: int, out: Any, to: int, pitch: int) -> None:
    for j in range(count):
        copy(x, at + j * stride, width, out, to + j * pitch)


@inlined
def _scores(x: Any, at: int, stride: int, depth: int, columns: int, pitch: int, out: Any, to: int, begin: int,
            end: int, keys: int, causal: int) -> None:
    """out[i - begin, j] = sum of x[i, e] * columns[e, j], for queries [begin, end) and the keys of their tiles."""
    for j in range(0, _reach(end - 1, begin, keys, causal), lanes(x)):
        first = begin
        if causal and j >= begin + ROWS:
            first = begin + (j - begin) // ROWS * ROWS
        for i in range(first, end, ROWS):
            queries = rows(x, at + i * stride, stride, end - i)
            t = nothing(queries)
            for e in range(depth):
                t = multiply_add(t, read_lanes(out, columns + e * pitch + j), queries, e)
            write_tile(t, rows(out, to + (i - begin) * pitch, pitch, end - i), j)


@inlined
def _settled(x: Any, at: int, factor: Any, left: int, mask: Any, place: int, masked: int) -> Any:
    """A vector of scores times `factor`, with the mask added; -inf from the element `left` on."""
    found = multiply(load(x, at), fill(factor))
    if masked:
        found = add(found, read(mask, place, left, zeros(x)))
    return begun(found, left, lowest(x))


@inlined
def _weighted(x: Any, weights: int, pitch: int, values: int, width: int, factors: int, step: int, out: int,
              begin: int, end: int, keys: int, causal: int) -> None:
    """out[i] = sum of weights[i, j] * values[j], times factors[i * step], for queries [begin, end) from 0 on."""
    for i in range(begin, end, ROWS):
        own = rows(x, weights + (i - begin) * pitch, pitch, end - i)
        times = rows(x, factors + (i - begin) * step, step, end - i)
        sums = rows(x, out + (i - begin) * width, width, end - i)
        for e in range(0, width, lanes(x)):
            t = nothing(own)
            for j in range(_reach(i, begin, keys, causal)):
                t = multiply_add(t, read_lanes(x, values + j * width + e), own, j)
            write_tile(scale(t, times, 0), sums, e)


@inlined
def _gathered(x: Any, weights: int, pitch: int, others: int, width: int, out: int, begin: int, end: int, keys: int,
              causal: int) -> None:
    """out[j] += sum of weights[i, j] * others[i], over the queries [begin, end) from 0 on that look at key j."""
    for j in range(0, _limit(end - 1, keys, causal), ROWS):
        first = j if causal and j > begin else begin
        own = rows(x, weights + j, 1, keys - j)
        sums = rows(x, out + j * width, width, keys - j)
        for e in range(0, width, lanes(x)):
            t = read_tile(sums, e)
            for i in range(first, end):
                t = multiply_add(t, read_lanes(x, others + i * width + e), own, (i - begin) * pitch)
            write_tile(t, sums, e)


def attention(q: Any, k: Any, v: Any, mask: Any, y: Any, top: Any, total: Any, strides: Any, scratch: Any, batches: int,
              heads: int, queries: int, keys: int, depth: int, width: int, masked: int, causal: int,
              factor: Any) -> None:
    """Arrays of `strides`: q, k, v, mask, y.

    `scratch`, with width whole: (depth + BLOCK) * pitch + (keys + BLOCK) * width + BLOCK, zeros.
    """
    pitch, wide = _whole(keys, WIDTH), _whole(width, lanes(q))
    values = depth * pitch
    scores = values + keys * wide
    sums = scores + BLOCK * pitch
    inverses = sums + BLOCK * wide
    for batch in range(batches):
        for head in range(heads):
            _turned(k, _head(strides, 1, batch, head), strides[6], keys, depth, scratch, 0, pitch)
            _copied(v, _head(strides, 2, batch, head), strides[10], keys, width, scratch, values, wide)
            q0, m0, y0 = _head(strides, 0, batch, head), _head(strides, 3, batch, head), _head(strides, 4, batch, head)
            row0 = (batch * heads + head) * queries
            for begin in range(0, queries, BLOCK):
                end = least(begin + BLOCK, queries)
                _scores(q, q0, strides[2], depth, 0, pitch, scratch, scores, begin, end, keys, causal)
                for i in range(begin, end):
                    at, limit = scores + (i - begin) * pitch, _limit(i, keys, causal)
                    reach = _reach(i, begin, keys, causal)
                    most = lowest(scratch)
                    for j in range(0, reach, WIDTH):
                        found = _settled(scratch, at + j, factor, limit - j, mask, m0 + i * strides[14] + j, masked)
                        store(found, scratch, at + j)
                        most = maximum(found, most)
                    top[row0 + i] = largest(most)
                    if top[row0 + i] == -np.inf:  # no key at all: weights of 0
                        top[row0 + i] = 0
                    shift, all_ = fill(-top[row0 + i]), zeros(scratch)
                    for j in range(0, reach, WIDTH):
                        weight = exp(add(load(scratch, at + j), shift))
                        store(weight, scratch, at + j)
                        all_ = add(all_, weight)
                    total[row0 + i] = sum_lanes(all_)
                    scratch[inverses + i - begin] = 1 / total[row0 + i] if total[row0 + i] != 0 else 0
                _weighted(scratch, scores, pitch, values, wide, inverses, 1, sums, begin, end, keys, causal)
                _copied(scratch, sums, wide, end - begin, width, y, y0 + begin * strides[18], strides[18])


def attention_backward(g: Any, q: Any, k: Any, v: Any, mask: Any, top: Any, total: Any, gq: Any, gk: Any, gv: Any,
                       strides: Any, scratch: Any, batches: int, heads: int, queries: int, keys: int, depth: int,
                       width: int, masked: int, causal: int, factor: Any) -> None:
    """Arrays of `strides`: q, k, v, mask, g, gq, gk, gv. The weights are computed again, from `top` and `total`.

    `scratch`, with depth and width whole: (depth + width + 2 * BLOCK) * pitch + (2 * keys + queries + BLOCK) * depth +
    (keys + queries) * width + 1, zeros.
    """
    pitch, deep, wide = _whole(keys, WIDTH), _whole(depth, lanes(q)), _whole(width, lanes(q))
    values = deep * pitch
    keys_at = values + wide * pitch
    queries_at = keys_at + keys * deep
    given = queries_at + queries * deep
    sums_q = given + queries * wide
    sums_k = sums_q + BLOCK * deep
    sums_v = sums_k + keys * deep
    weights = sums_v + keys * wide
    scores = weights + BLOCK * pitch
    spare = scores + BLOCK * pitch
    for batch in range(batches):
        for head in range(heads):
            k0, v0, m0 = _head(strides, 1, batch, head), _head(strides, 2, batch, head), _head(strides, 3, batch, head)
            _turned(k, k0, strides[6], keys, depth, scratch, 0, pitch)
            _turned(v, v0, strides[10], keys, width, scratch, values, pitch)
            _copied(k, k0, strides[6], keys, depth, scratch, keys_at, deep)
            _copied(q, _head(strides, 0, batch, head), strides[2], queries, depth, scratch, queries_at, deep)
            _copied(g, _head(strides, 4, batch, head), strides[18], queries, width, scratch, given, wide)
            clear(scratch, sums_k, weights - sums_k)
            row0 = (batch * heads + head) * queries
            for begin in range(0, queries, BLOCK):
                end = least(begin + BLOCK, queries)
                _scores(scratch, queries_at, deep, depth, 0, pitch, scratch, weights, begin, end, keys, causal)
                _scores(scratch, given, wide, width, values, pitch, scratch, scores, begin, end, keys, causal)
                for i in range(begin, end):
                    at, limit = (i - begin) * pitch, _limit(i, keys, causal)
                    reach = _reach(i, begin, keys, causal)
                    shift, mean = fill(-top[row0 + i]), zeros(scratch)
                    scratch[spare] = 1 / total[row0 + i] if total[row0 + i] != 0 else 0
                    times = fill(scratch[spare])
                    for j in range(0, reach, WIDTH):
                        found = _settled(scratch, weights + at + j, factor, limit - j, mask, m0 + i * strides[14] + j,
                                         masked)
                        weight = multiply(exp(add(found, shift)), times)
                        store(weight, scratch, weights + at + j)
                        found = begun(load(scratch, scores + at + j), limit - j, zeros(scratch))
                        store(found, scratch, scores + at + j)
                        mean = add(mean, multiply(weight, found))
                    shift = fill(-sum_lanes(mean))
                    for j in range(at, at + reach, WIDTH):
                        change = multiply(load(scratch, weights + j), add(load(scratch, scores + j), shift))
                        store(multiply(change, fill(factor)), scratch, scores + j)
                scratch[spare] = 1
                _gathered(scratch, weights, pitch, given, wide, sums_v, begin, end, keys, causal)
                _gathered(scratch, scores, pitch, queries_at, deep, sums_k, begin, end, keys, causal)
                _weighted(scratch, scores, pitch, keys_at, deep, spare, 0, sums_q, begin, end, keys, causal)
                _copied(scratch, sums_q, deep, end - begin, depth, gq,
                        _head(strides, 5, batch, head) + begin * strides[22], strides[22])
            _copied(scratch, sums_k, deep, keys, depth, gk, _head(strides, 6, batch, head), strides[26])
            _copied(scratch, sums_v, wide, keys, width, gv, _head(strides, 7, batch, head), strides[30])
