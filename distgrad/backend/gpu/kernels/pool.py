"""Pooling: one pass over memory each way, a thread for each element that is written.

Gradients are gathered: an element of the input looks through the windows that it lies in, always in the same order.
That is all the memory traffic there is to do, so no library is asked.
"""

from __future__ import annotations

import math
from typing import Any

import cupy

from .launch import ELEMENTS, add_family, over_lines, plain

__all__ = ["avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward", "max_pool2d_gather"]

Pair = tuple[int, int]

add_family("pool", r"""
extern "C" __global__ void max_pool(const T* x, T* y, I* where, I n, I h, I w, I kh, I kw, I oh, I ow, I sh, I sw,
                                    I top, I left, I dh, I dw) {
    EACH(e, n) {
        I plane = e, ox = split(plane, ow), oy = split(plane, oh), found = -1;
        const T* from = x + plane * h * w;
        T best = LOWEST;
        for (I i = 0; i < kh; i++) {
            I r = oy * sh - top + i * dh;
            if (r < 0 || r >= h) continue;
            for (I j = 0; j < kw; j++) {
                I c = ox * sw - left + j * dw;
                if (c < 0 || c >= w) continue;
                T v = from[r * w + c];
                if (found < 0 || v > best || v != v) { best = v; found = r * w + c; }
            }
        }
        y[e] = best;
        where[e] = found;
    }
}

// Of n elements of planes of h by w, what is gathered from the windows that won with them.
extern "C" __global__ void max_pool_backward(const T* g, const I* where, T* gx, I n, I h, I w, I kh, I kw, I oh, I ow,
                                             I sh, I sw, I top, I left, I dh, I dw) {
    EACH(e, n) {
        I plane = e, c = split(plane, w), r = split(plane, h), place = r * w + c;
        T sum = 0;
        for (I i = kh - 1; i >= 0; i--) {
            I oy = r + top - i * dh;
            if (oy < 0 || split(oy, sh) || oy >= oh) continue;
            for (I j = kw - 1; j >= 0; j--) {
                I ox = c + left - j * dw;
                if (ox < 0 || split(ox, sw) || ox >= ow) continue;
                I at = (plane * oh + oy) * ow + ox;
                if (where[at] == place) sum += g[at];
            }
        }
        gx[e] = sum;
    }
}

extern "C" __global__ void max_pool_gather(const T* x, const I* where, T* y, I n, I pixels, I windows) {
    EACH(e, n) { I plane = e; split(plane, windows); y[e] = x[plane * pixels + (where[e] > 0 ? where[e] : 0)]; }
}

// How many places the windows at `at` along one side are divided by.
__device__ inline I side(I at, I size, I k, I stride, I pad, int padded) {
    I first = at * stride - pad, last = first + k < size + pad ? first + k : size + pad;
    if (padded) return last - first;
    return (last < size ? last : size) - (first > 0 ? first : 0);
}

extern "C" __global__ void avg_pool(const T* x, T* y, I n, I h, I w, I kh, I kw, I oh, I ow, I sh, I sw, I top, I left,
                                    int padded, I divisor) {
    EACH(e, n) {
        I plane = e, ox = split(plane, ow), oy = split(plane, oh);
        const T* from = x + plane * h * w;
        T sum = 0;
        for (I i = 0; i < kh; i++) {
            I r = oy * sh - top + i;
            if (r < 0 || r >= h) continue;
            for (I j = 0; j < kw; j++) {
                I c = ox * sw - left + j;
                if (c >= 0 && c < w) sum += from[r * w + c];
            }
        }
        y[e] = sum / (divisor ? divisor : side(oy, h, kh, sh, top, padded) * side(ox, w, kw, sw, left, padded));
    }
}

extern "C" __global__ void avg_pool_backward(const T* g, T* gx, I n, I h, I w, I kh, I kw, I oh, I ow, I sh, I sw,
                                             I top, I left, int padded, I divisor) {
    EACH(e, n) {
        I plane = e, c = split(plane, w), r = split(plane, h);
        T sum = 0;
        for (I i = kh - 1; i >= 0; i--) {
            I oy = r + top - i;
            if (oy < 0 || split(oy, sh) || oy >= oh) continue;
            for (I j = kw - 1; j >= 0; j--) {
                I ox = c + left - j;
                if (ox < 0 || split(ox, sw) || ox >= ow) continue;
                sum += g[(plane * oh + oy) * ow + ox] /
                    (divisor ? divisor : side(oy, h, kh, sh, top, padded) * side(ox, w, kw, sw, left, padded));
            }
        }
        gx[e] = sum;
    }
}
""")


def _wide(x: Any) -> Any:
    """x row by row, float16 in float32; None for other types than those of the kernels."""
    if x.dtype not in ELEMENTS and x.dtype != "float16":
        return None
    return cupy.ascontiguousarray(x, "float32" if x.dtype == "float16" else None)


def max_pool2d(x: Any, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> tuple[Any, Any]:
    wide = _wide(x)
    if wide is None or not x.size:
        return plain("max_pool2d", x)(x, kernel_size, stride, padding, dilation, out)
    y, where = (cupy.empty((*x.shape[:2], *out), kind) for kind in (wide.dtype, "int64"))
    over_lines("pool", "max_pool", wide.dtype, y.size, wide, y, where, y.size, *x.shape[2:], *kernel_size, *out,
               *stride, *padding, *dilation)
    return y.astype(x.dtype, copy=False), where


def max_pool2d_backward(g: Any, where: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair,
                        dilation: Pair) -> Any:
    wide = _wide(g)
    if wide is None or not g.size:
        return plain("max_pool2d_backward", g)(g, where, size, kernel_size, stride, padding, dilation)
    gx = cupy.empty((*g.shape[:2], *size), wide.dtype)
    over_lines("pool", "max_pool_backward", wide.dtype, gx.size, wide, cupy.ascontiguousarray(where), gx, gx.size,
               *size, *kernel_size, *g.shape[2:], *stride, *padding, *dilation)
    return gx.astype(g.dtype, copy=False)


def max_pool2d_gather(x: Any, where: Any) -> Any:
    wide = _wide(x)
    if wide is None or not x.size or not where.size:
        return plain("max_pool2d_gather", x)(x, where)
    y = cupy.empty(where.shape, wide.dtype)
    over_lines("pool", "max_pool_gather", wide.dtype, y.size, wide, cupy.ascontiguousarray(where), y, y.size,
               math.prod(x.shape[2:]), math.prod(where.shape[2:]))
    return y.astype(x.dtype, copy=False)


def avg_pool2d(x: Any, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair, include_pad: bool,
               divisor: int | None) -> Any:
    wide = _wide(x)
    if wide is None or not x.size:
        return plain("avg_pool2d", x)(x, kernel_size, stride, padding, out, include_pad, divisor)
    y = cupy.empty((*x.shape[:2], *out), wide.dtype)
    over_lines("pool", "avg_pool", wide.dtype, y.size, wide, y, y.size, *x.shape[2:], *kernel_size, *out, *stride,
               *padding, bool(include_pad), divisor or 0)
    return y.astype(x.dtype, copy=False)


def avg_pool2d_backward(g: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair,
                        include_pad: bool, divisor: int | None) -> Any:
    wide = _wide(g)
    if wide is None or not g.size:
        return plain("avg_pool2d_backward", g)(g, size, kernel_size, stride, padding, out, include_pad, divisor)
    gx = cupy.empty((*g.shape[:2], *size), wide.dtype)
    over_lines("pool", "avg_pool_backward", wide.dtype, gx.size, wide, gx, gx.size, *size, *kernel_size, *out, *stride,
               *padding, bool(include_pad), divisor or 0)
    return gx.astype(g.dtype, copy=False)
