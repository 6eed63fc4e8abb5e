"""Reading and adding at computed places: gather, scatter_add, index_add, and an embedding's gradient.

[Note: order of additions] Rows of a small table are added up by one block for each row, which looks through the indices
in their order: the same bits every time. Where that search would cost more than it gives, additions are atomic, and
those that meet at one place may come in any order. No index is read by the host.
"""

from __future__ import annotations

import math
from typing import Any

import cupy

from ...reference.scatter import rows_of
from .launch import add_family, fits, on_blocks, over_lines, plain

__all__ = ["gather", "index_add", "index_put", "scatter_add"]

add_family("indexed", r"""
// As cupy takes an index that is out of range.
__device__ inline I inside(I at, I size) {
    if (at < 0 || at >= size) { at %= size; if (at < 0) at += size; }
    return at;
}

// Arrays are (front, along, behind); index has one entry for each element, or (vector = 1) for each place along.
extern "C" __global__ void take_at(const T* x, const I* index, I size, I count, I behind, I n, T* out) {
    EACH(e, n) {
        I i = e, b = split(i, behind);
        split(i, count);
        out[e] = x[(i * size + inside(index[e], size)) * behind + b];
    }
}

extern "C" __global__ void add_at(T* out, const I* index, const T* source, I size, I count, I behind, int vector,
                                  I n) {
    EACH(e, n) {
        I i = e, b = split(i, behind), j = split(i, count);
        atomicAdd(out + (i * size + inside(index[vector ? j : e], size)) * behind + b, source[e]);
    }
}

// out[row] += the rows of `source` whose index it is, in their order. A block has 256 neighbours of one row of `out`.
extern "C" __global__ void add_in_order(T* out, const I* index, const T* source, I size, I count, I behind) {
    __shared__ I some[256];
    __shared__ I met;
    I tiles = (behind + 255) / 256, row = blockIdx.x / tiles, b = blockIdx.x % tiles * 256 + threadIdx.x;
    T sum = 0;
    int any = 0;
    if (threadIdx.x == 0) met = -1;
    for (I begin = 0; begin < count; begin += 256) {
        I left = count - begin < 256 ? count - begin : 256, mine = -1;
        if ((I)threadIdx.x < left) mine = inside(index[begin + threadIdx.x], size);
        some[threadIdx.x] = mine;
        __syncthreads();
        if (mine == row) met = begin;
        __syncthreads();
        if (met == begin) {
            any = 1;
            if (b < behind)
                for (I j = 0; j < left; j++) if (some[j] == row) sum += source[(begin + j) * behind + b];
        }
        __syncthreads();
    }
    if (any && b < behind) out[row * behind + b] += sum;
}
""")

_MOST_INDICES, _MOST_BLOCKS = 1 << 14, 1 << 11  # of what is added in order; see [Note: order of additions]


def _sizes(shape: tuple[int, ...], dim: int) -> tuple[int, int]:
    """How many elements lie in front of and behind a dimension."""
    return math.prod(shape[:dim]), math.prod(shape[dim + 1:])


def _beside(x: Any, index: Any, dim: int) -> bool:
    """Whether an index has x's shape but for one dimension."""
    return bool(index.size) and x.ndim == index.ndim and x.shape[:dim] == index.shape[:dim] and \
        x.shape[dim + 1:] == index.shape[dim + 1:]


def gather(x: Any, dim: int, index: Any) -> Any:
    if not _beside(x, index, dim) or not x.size or not fits(x):
        return plain("gather", x)(x, dim, index)
    out = cupy.empty(index.shape, x.dtype)
    over_lines("indexed", "take_at", x.dtype, out.size, x, cupy.ascontiguousarray(index, "int64"), x.shape[dim],
               index.shape[dim], _sizes(x.shape, dim)[1], out.size, out)
    return out


def scatter_add(out: Any, dim: int, index: Any, source: Any) -> Any:
    if not _beside(out, index, dim) or source.shape != index.shape or not out.size or not fits(out, source):
        return plain("scatter_add", out)(out, dim, index, source)
    over_lines("indexed", "add_at", out.dtype, source.size, out, cupy.ascontiguousarray(index, "int64"), source,
               out.shape[dim], index.shape[dim], _sizes(out.shape, dim)[1], False, source.size)
    return out


def index_add(out: Any, dim: int, index: Any, source: Any) -> Any:
    if not out.size or not source.size or source.dtype != out.dtype or not fits(out):
        return plain("index_add", out)(out, dim, index, source)
    index, source = cupy.ascontiguousarray(index, "int64"), cupy.ascontiguousarray(source)
    (front, behind), size, count = _sizes(out.shape, dim), out.shape[dim], index.size
    blocks = size * -(-behind // 256)
    if front == 1 and count <= _MOST_INDICES and blocks <= _MOST_BLOCKS:
        on_blocks("indexed", "add_in_order", out.dtype, blocks, out, index, source, size, count, behind)
    else:
        over_lines("indexed", "add_at", out.dtype, source.size, out, index, source, size, count, behind, True,
                   source.size)
    return out


def index_put(out: Any, key: tuple[Any, ...], value: Any, accumulate: bool) -> Any:
    if accumulate and fits(out) and out.size:
        rows = rows_of(cupy, out, key, value)
        if rows is not None:
            return index_add(out, 0, *rows)
    return plain("index_put", out)(out, key, value, accumulate)
