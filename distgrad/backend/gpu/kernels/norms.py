"""Normalisation within a sample (a block for each row) and over the batch (by channels), forward and backward.

Over the batch, statistics are taken of parts of the rows, from each part's own mean, and then put together, so that
nothing cancels; running statistics move in the same launch. Both gradients of weight and bias are one pass.
"""

from __future__ import annotations

import math
from typing import Any

import cupy

from .launch import add_family, fits, over_lines, over_rows, plain
from .sums import CHANNELS, Parts

__all__ = ["batch_norm", "normalize", "normalize_backward"]

add_family("norms", CHANNELS + r"""
// Sums of g * (x - mean) * rstd and of g: out (parts, 2, channels). Statistics are of rows (each = 1) or of channels.
extern "C" __global__ void weight_sums(const T* g, const T* x, const T* mean, const T* rstd, int each, I rows,
                                       I channels, I plane, I chunk, I wide, T* out) {
    __shared__ T shared[256];
    Share s = share(rows, channels, plane, chunk, wide);
    T along = 0, sum = 0;
    for (I e = s.lane; e < s.elements; e += s.lanes) {
        I row = e, p = split(row, plane), at = ((s.begin + row) * channels + s.c) * plane + p;
        I of = each ? s.begin + row : s.c;
        along += g[at] * (mean ? x[at] - mean[of] : x[at]) * rstd[of];
        sum += g[at];
    }
    along = add_lanes(along, shared, wide);
    sum = add_lanes(sum, shared, wide);
    if (s.lane == 0 && s.c < channels) {
        out[2 * s.part * channels + s.c] = along;
        out[(2 * s.part + 1) * channels + s.c] = sum;
    }
}

// Each part's mean and sum of squared deviations: out (parts, 2, channels).
extern "C" __global__ void moments(const T* x, I rows, I channels, I plane, I chunk, I wide, T* out) {
    __shared__ T shared[256];
    Share s = share(rows, channels, plane, chunk, wide);
    T sum = 0, square = 0;
    for (I e = s.lane; e < s.elements; e += s.lanes) {
        I row = e, p = split(row, plane);
        sum += x[((s.begin + row) * channels + s.c) * plane + p];
    }
    T mean = add_lanes(sum, shared, wide) / (s.elements ? s.elements : 1);
    for (I e = s.lane; e < s.elements; e += s.lanes) {
        I row = e, p = split(row, plane);
        T d = x[((s.begin + row) * channels + s.c) * plane + p] - mean;
        square += d * d;
    }
    square = add_lanes(square, shared, wide);
    if (s.lane == 0 && s.c < channels) {
        out[2 * s.part * channels + s.c] = mean;
        out[(2 * s.part + 1) * channels + s.c] = square;
    }
}

// The parts' moments put together; running statistics, where given, move. With no parts they are the statistics.
extern "C" __global__ void statistics(const T* parts, I count, I rows, I channels, I plane, I chunk, T eps, T momentum,
                                      T kept, T* running_mean, T* running_var, T* mean, T* rstd) {
    EACH(c, channels) {
        double middle = 0, square = 0, seen = 0;
        for (I part = 0; part < count; part++) {
            I begin = part * chunk, held = begin + chunk < rows ? chunk : rows - begin;
            double more = (double)(held * plane), d = parts[2 * part * channels + c] - middle;
            middle += d * (more / (seen + more));
            square += parts[(2 * part + 1) * channels + c] + d * d * (seen * more / (seen + more));
            seen += more;
        }
        double var = square / seen;
        if (!count) { middle = running_mean[c]; var = running_var[c]; }
        mean[c] = (T)middle;
        rstd[c] = (T)(1 / sqrt(var + eps));
        if (count && running_mean) running_mean[c] = running_mean[c] * kept + momentum * (T)middle;
        if (count && running_var)
            running_var[c] = running_var[c] * kept + momentum * (T)(square / (seen > 1 ? seen - 1 : 1));
    }
}

// A block for each row: of channels in turn, or (each = 1) with a channel for each element.
extern "C" __global__ void by_channel(const T* x, const T* mean, const T* rstd, const T* weight, const T* bias, T* y,
                                      I n, I channels, int each) {
    x += (I)blockIdx.x * n; y += (I)blockIdx.x * n;
    OVER_ROW(j) {
        I c = each ? j : blockIdx.x % channels;
        T v = (x[j] - mean[c]) * rstd[c];
        if (weight) v *= weight[c];
        y[j] = bias ? v + bias[c] : v;
    }
}

// sums: those of g * (x - mean) * rstd and of g, (2, channels); none where the statistics were given.
extern "C" __global__ void by_channel_backward(const T* g, const T* x, const T* mean, const T* rstd, const T* weight,
                                               const T* sums, T* gx, I n, I channels, int each, T share) {
    g += (I)blockIdx.x * n; x += (I)blockIdx.x * n; gx += (I)blockIdx.x * n;
    OVER_ROW(j) {
        I c = each ? j : blockIdx.x % channels;
        T v = g[j];
        if (sums) v -= (sums[channels + c] + (x[j] - mean[c]) * rstd[c] * sums[c]) * share;
        v *= rstd[c];
        gx[j] = weight ? v * weight[c] : v;
    }
}
""")


def _width(shape: tuple[int, ...], axes: tuple[int, ...], affine: tuple[int, ...]) -> int:
    """How many neighbours are normalised together, if weight and bias have one element for each; else 0."""
    outside = len(shape) - len(axes)
    if sorted(axes) != list(range(outside, len(shape))) or tuple(affine) != (1,) * outside + tuple(shape[outside:]):
        return 0
    return math.prod(shape[outside:])


def _by_channel(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    return len(shape) > 1 and tuple(axes) == (0, *range(2, len(shape)))


def normalize(x: Any, weight: Any, bias: Any, eps: float, axes: tuple[int, ...], affine: tuple[int, ...],
              centered: bool) -> tuple[Any, Any, Any]:
    n = _width(x.shape, axes, affine) if x.size and fits(x, weight, bias) else 0
    if not n:
        return plain("normalize", x)(x, weight, bias, eps, axes, affine, centered)
    kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    y, rstd = cupy.empty_like(x), cupy.empty(kept, x.dtype)
    mean = cupy.empty(kept, x.dtype) if centered else None
    over_rows("layer_norm", x.dtype, x.size // n, n, x, weight, bias, n, float(eps), bool(centered), y, mean, rstd)
    return y, mean, rstd


def _spread(shape: tuple[int, ...]) -> tuple[int, int, bool]:
    """(rows, width, whether each element of a row is a channel) for the kernels that go by channel."""
    n, c = shape[:2]
    plane = math.prod(shape[2:])
    return (n, c, True) if plane == 1 else (n * c, plane, False)


def batch_norm(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float, momentum: float,
               training: bool) -> tuple[Any, Any, Any]:
    if not x.size or not fits(x, weight, bias, running_mean, running_var):
        return plain("batch_norm", x)(x, weight, bias, running_mean, running_var, eps, momentum, training)
    channels, plane = x.shape[1], math.prod(x.shape[2:])
    parts = Parts(x.shape[0], channels, plane)
    found = None
    if training:
        found = cupy.empty((parts.count, 2, channels), x.dtype)
        parts.run("norms", "moments", x.dtype, x, *parts.sizes, found)
    affine = (1, channels, *(1,) * (x.ndim - 2))
    mean, rstd, y = cupy.empty(affine, x.dtype), cupy.empty(affine, x.dtype), cupy.empty_like(x)
    over_lines("norms", "statistics", x.dtype, channels, found, parts.count if training else 0, *parts.sizes[:4],
               float(eps), float(momentum), float(1 - momentum), running_mean, running_var, mean, rstd)
    rows, n, each = _spread(x.shape)
    over_rows("by_channel", x.dtype, rows, n, x, mean, rstd, weight, bias, y, n, channels, each, family="norms")
    return y, mean, rstd


def _weight_sums(g: Any, x: Any, mean: Any, rstd: Any, each: bool, channels: int, plane: int) -> Any:
    """What weight and bias get, (2, channels)."""
    parts = Parts(x.size // (channels * plane), channels, plane)
    partial = cupy.empty((parts.count, 2, channels), x.dtype)
    parts.run("norms", "weight_sums", x.dtype, g, x, mean, rstd, each, *parts.sizes, partial)
    return parts.added(partial)


def normalize_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, axes: tuple[int, ...],
                       affine: tuple[int, ...], shape: tuple[int, ...], fixed: bool,
                       needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    whole = x.size and g.shape == x.shape and fits(g, x, mean, rstd, weight)
    of_channels = bool(whole) and _by_channel(x.shape, axes)
    n = _width(x.shape, axes, affine) if whole and not fixed and not of_channels else 0
    if not n and not of_channels:
        return plain("normalize_backward", x)(g, x, mean, rstd, weight, axes, affine, shape, fixed, needs)
    gx = gw = gb = sums = None
    channels, plane = (x.shape[1], math.prod(x.shape[2:])) if of_channels else (n, 1)
    if needs[1] or needs[2] or (of_channels and needs[0] and not fixed):
        sums = _weight_sums(g, x, mean, rstd, not of_channels, channels, plane)
        gw, gb = sums[0].reshape(shape) if needs[1] else None, sums[1].reshape(shape) if needs[2] else None
    if needs[0]:
        gx = cupy.empty_like(x)
        if of_channels:
            rows, n, each = _spread(x.shape)
            over_rows("by_channel_backward", x.dtype, rows, n, g, x, mean, rstd, weight, None if fixed else sums, gx, n,
                      channels, each, channels / x.size, family="norms")
        else:
            over_rows("layer_norm_backward", x.dtype, x.size // n, n, g, x, mean, rstd, weight, n, gx)
    return gx, gw, gb
