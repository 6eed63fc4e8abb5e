"""Dropout: the mask and the scaling in one pass, from numbers that were drawn before."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from .launch import add_family, fits, over_lines, plain

__all__ = ["dropout", "dropout_backward"]

add_family("dropout", r"""
extern "C" __global__ void dropout(const T* x, const float* noise, T* y, bool* mask, I n, float p, T scale) {
    EACH(i, n) {
        bool kept = noise[i] >= p;
        mask[i] = kept;
        y[i] = x[i] * (T)kept * scale;
    }
}

extern "C" __global__ void dropout_backward(const T* g, const bool* mask, T* gx, I n, T scale) {
    EACH(i, n) gx[i] = g[i] * (T)mask[i] * scale;
}
""")


def _scale(p: float) -> float:
    return 1 / (1 - p) if p < 1 else 1.0


def dropout(x: Any, noise: Any, p: float) -> tuple[Any, Any]:
    if x.shape != noise.shape or noise.dtype != "float32" or not noise.flags.c_contiguous or not fits(x):
        return plain("dropout", x)(x, noise, p)
    y, mask = cupy.empty_like(x), cupy.empty(x.shape, "bool")
    over_lines("dropout", "dropout", x.dtype, x.size, x, noise, y, mask, x.size, np.float32(p), _scale(p))
    return y, mask


def dropout_backward(g: Any, mask: Any, p: float) -> Any:
    if g.shape != mask.shape or not mask.flags.c_contiguous or not fits(g):
        return plain("dropout_backward", g)(g, mask, p)
    gx = cupy.empty_like(g)
    over_lines("dropout", "dropout_backward", g.dtype, g.size, g, mask, gx, g.size, _scale(p))
    return gx
