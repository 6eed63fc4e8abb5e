"""Attention: products by cuBLAS, and one pass of a kernel over the scores in each direction.

Forward is product, kernel, product; backward two products, one kernel, three products. The factor of the scores is the
products' own, no operand is turned, and what a causal query may not see is known from its place: there is no mask.
"""

from __future__ import annotations

from typing import Any

import cupy

from .launch import ELEMENTS, add_family, fits, over_rows, plain
from .products import multiply, packed

__all__ = ["attention", "attention_backward"]

add_family("attention", r"""
// Scores become exp(score - largest), with the row's largest score and sum; row % queries looks at keys up to itself.
extern "C" __global__ void attend(T* scores, I n, I queries, int causal, T* tops, T* sums) {
    __shared__ T shared[1024];
    I row = blockIdx.x, keys = causal && row % queries + 1 < n ? row % queries + 1 : n;
    scores += row * n;
    T top = row_top(scores, keys, shared), sum = 0;
    if (top == LOWEST) top = 0;
    OVER_ROW(j) { T v = j < keys ? exp(scores[j] - top) : (T)0; scores[j] = v; sum += v; }
    sum = add_up(sum, shared);
    if (threadIdx.x == 0) { tops[row] = top; sums[row] = sum; }
}

// Scores become weights again, by what `attend` has kept; the weights' gradients become those of the scores.
extern "C" __global__ void attend_backward(T* scores, T* change, I n, I queries, int causal, const T* tops,
                                           const T* sums) {
    __shared__ T shared[1024];
    I row = blockIdx.x, keys = causal && row % queries + 1 < n ? row % queries + 1 : n;
    scores += row * n; change += row * n;
    T top = tops[row], total = sums[row] == 0 ? (T)1 : sums[row], along = 0;
    OVER_ROW(j) {
        T w = j < keys ? exp(scores[j] - top) / total : (T)0;
        scores[j] = w;
        along += w * change[j];
    }
    along = add_up(along, shared);
    OVER_ROW(j) change[j] = scores[j] * (change[j] - along);
}

extern "C" __global__ void divide_rows(T* y, I n, const T* sums) {
    I row = blockIdx.x;
    T sum = sums[row] == 0 ? (T)1 : sums[row];
    OVER_ROW(j) y[row * n + j] /= sum;
}
""")


def _scores(q: Any, k: Any, mask: Any, scale: float) -> Any:
    scores = multiply(q, k.swapaxes(-1, -2), alpha=scale)
    if mask is not None:
        scores += mask
    return scores


def _takes(*arrays: Any) -> bool:
    """Whether all are alike, of a type with kernels, and not empty, whatever way they lie."""
    first = arrays[0]
    return first.dtype in ELEMENTS and all(a is None or (a.size and a.dtype == first.dtype) for a in arrays)


def attention(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float) -> tuple[Any, Any, Any]:
    """As the reference."""
    if not _takes(q, k, v, mask):
        return _plainly(q, k, v, mask, causal, scale)
    scores = _scores(q, k, mask, scale)
    *front, n = scores.shape
    top, total = cupy.empty(front, scores.dtype), cupy.empty(front, scores.dtype)
    over_rows("attend", scores.dtype, top.size, n, scores, n, front[-1], bool(causal), top, total, family="attention")
    y = multiply(scores, v)
    over_rows("divide_rows", y.dtype, top.size, y.shape[-1], y, y.shape[-1], total, family="attention")
    return y, top, total


def _plainly(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float) -> tuple[Any, Any, Any]:
    """float16 in float32, and what has no elements."""
    if q.dtype.itemsize == 2 and q.size and k.size and v.size:
        wide = [None if a is None else a.astype("float32") for a in (q, k, v, mask)]
        y, top, total = attention(*wide, causal, scale)
        return y.astype(q.dtype), top, total
    if q.size and k.size and v.size:
        return plain("attention", q)(q, k, v, mask, causal, scale)
    kind = "float32" if q.dtype.itemsize == 2 else q.dtype
    shape = cupy.broadcast_shapes(q.shape[:-1], (*k.shape[:-2], 1))  # cupy knows no largest of nothing
    return cupy.zeros((*shape, v.shape[-1]), q.dtype), cupy.zeros(shape, kind), cupy.zeros(shape, kind)


def attention_backward(g: Any, q: Any, k: Any, v: Any, mask: Any, top: Any, total: Any, causal: bool, scale: float,
                       of_mask: bool) -> tuple[Any, Any, Any, Any]:
    dtype = q.dtype
    if dtype.itemsize == 2:
        g, q, k, v, mask = (None if a is None else a.astype("float32") for a in (g, q, k, v, mask))
    if not (_takes(g, q, k, v, mask) and fits(top, total)):
        return plain("attention_backward", q)(g, q, k, v, mask, top, total, causal, scale, of_mask)
    g, q, k = packed(g), packed(q), packed(k)  # each is read twice
    scores, change = _scores(q, k, mask, scale), multiply(g, v.swapaxes(-1, -2))
    *front, n = scores.shape
    over_rows("attend_backward", scores.dtype, top.size, n, scores, change, n, front[-1], bool(causal), top, total,
              family="attention")
    gv = multiply(scores.swapaxes(-1, -2), g)
    gq, gk = multiply(change, k, alpha=scale), multiply(change.swapaxes(-1, -2), q, alpha=scale)
    return (gq.astype(dtype, copy=False), gk.astype(dtype, copy=False), gv.astype(dtype, copy=False),
            change.astype(dtype, copy=False) if of_mask else None)
