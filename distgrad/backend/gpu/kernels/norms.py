"""Normalisation within a sample (layer, RMS and group norm: a block for each row) and over the batch (by channels).

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
// A row is normalised by itself. Rows come in turn for each of `groups` groups, and have n / plane channels each.
struct Affine { I first, plane; };

__device__ inline Affine affine(I n, I groups, I plane) {
    Affine a = {(I)(blockIdx.x % (unsigned)groups) * (n / plane), plane};
    return a;
}

__device__ inline T of(const T* weight, Affine a, I j) {
    return weight[a.plane == 1 ? a.first + j : a.first + (I)((unsigned)j / (unsigned)a.plane)];
}

extern "C" __global__ void row_norm(const T* x, const T* weight, const T* bias, I n, I groups, I plane, T eps,
                                    int centered, T* y, T* mean, T* rstd) {
    __shared__ T shared[1024];
    I row = blockIdx.x;
    Affine a = affine(n, groups, plane);
    x += row * n; y += row * n;
    T middle = 0, square = 0;
    if (centered) {
        OVER_ROW(j) middle += x[j];
        middle = add_up(middle, shared) / n;
    }
    OVER_ROW(j) { T d = x[j] - middle; square += d * d; }
    T scale = 1 / sqrt(add_up(square, shared) / n + eps);
    OVER_ROW(j) {
        T v = (x[j] - middle) * scale;
        if (weight) v *= of(weight, a, j);
        y[j] = bias ? v + of(bias, a, j) : v;
    }
    if (threadIdx.x == 0) { if (centered) mean[row] = middle; rstd[row] = scale; }
}

extern "C" __global__ void row_norm_backward(const T* g, const T* x, const T* mean, const T* rstd, const T* weight,
                                             I n, I groups, I plane, T* gx) {
    __shared__ T shared[1024];
    I row = blockIdx.x;
    Affine a = affine(n, groups, plane);
    g += row * n; x += row * n; gx += row * n;
    T middle = mean ? mean[row] : (T)0, scale = rstd[row], sum = 0, along = 0;
    OVER_ROW(j) {
        T gh = weight ? g[j] * of(weight, a, j) : g[j];
        sum += gh;
        along += gh * (x[j] - middle) * scale;
    }
    sum = mean ? add_up(sum, shared) / n : (T)0;
    along = add_up(along, shared) / n;
    OVER_ROW(j) {
        T gh = weight ? g[j] * of(weight, a, j) : g[j];
        gx[j] = scale * (gh - sum - (x[j] - middle) * scale * along);
    }
}

// Sums of g * (x - mean) * rstd and of g: out (parts, 2, channels). Statistics are of channels, or of rows' groups.
extern "C" __global__ void weight_sums(const T* g, const T* x, const T* mean, const T* rstd, I groups, I rows,
                                       I channels, I plane, I chunk, I wide, T* out) {
    __shared__ T shared[256];
    Share s = share(rows, channels, plane, chunk, wide);
    T along = 0, sum = 0;
    I group = groups ? s.c / (channels / groups) : 0;
    for (I e = s.lane; e < s.elements; e += s.lanes) {
        I row = e, p = split(row, plane), at = ((s.begin + row) * channels + s.c) * plane + p;
        I of = groups ? (s.begin + row) * groups + group : s.c;
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


def _rows(shape: tuple[int, ...], axes: tuple[int, ...], affine: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(width, groups, plane) of what is normalised row by row: the last dimensions with a weight for each place, or
    (N, groups, channels, plane) with one for each channel. None for other axes."""
    ndim, front = len(shape), len(shape) - len(axes)
    if sorted(axes) != list(range(front, ndim)):
        return None
    width = math.prod(shape[front:])
    if tuple(affine) == (1,) * front + tuple(shape[front:]):
        return width, 1, 1
    if ndim == 4 and front == 2 and tuple(affine) == (1, *shape[1:3], 1):
        return width, shape[1], shape[3]
    return None


def _by_channel(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    return len(shape) > 1 and tuple(axes) == (0, *range(2, len(shape)))


def normalize(x: Any, weight: Any, bias: Any, eps: float, axes: tuple[int, ...], affine: tuple[int, ...],
              centered: bool) -> tuple[Any, Any, Any]:
    rows = _rows(x.shape, axes, affine) if x.size and fits(x, weight, bias) else None
    if rows is None:
        return plain("normalize", x)(x, weight, bias, eps, axes, affine, centered)
    kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    y, rstd = cupy.empty_like(x), cupy.empty(kept, x.dtype)
    mean = cupy.empty(kept, x.dtype) if centered else None
    over_rows("row_norm", x.dtype, x.size // rows[0], rows[0], x, weight, bias, *rows, float(eps), bool(centered), y,
              mean, rstd, family="norms")
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


def _weight_sums(g: Any, x: Any, mean: Any, rstd: Any, groups: int, channels: int, plane: int) -> Any:
    """What weight and bias get, (2, channels), by statistics of channels (groups = 0) or of each row's groups."""
    parts = Parts(x.size // (channels * plane), channels, plane)
    partial = cupy.empty((parts.count, 2, channels), x.dtype)
    parts.run("norms", "weight_sums", x.dtype, g, x, mean, rstd, groups, *parts.sizes, partial)
    return parts.added(partial)


def normalize_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, axes: tuple[int, ...],
                       affine: tuple[int, ...], shape: tuple[int, ...], fixed: bool,
                       needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    if x.size and g.shape == x.shape and fits(g, x, mean, rstd, weight):
        if _by_channel(x.shape, axes):
            return _channels_backward(g, x, mean, rstd, weight, shape, fixed, needs)
        rows = _rows(x.shape, axes, affine)
        if rows is not None and not fixed:
            return _rows_backward(g, x, mean, rstd, weight, shape, rows, needs)
    return plain("normalize_backward", x)(g, x, mean, rstd, weight, axes, affine, shape, fixed, needs)


def _taken(sums: Any, shape: tuple[int, ...], needs: tuple[bool, bool, bool]) -> tuple[Any, Any]:
    return sums[0].reshape(shape) if needs[1] else None, sums[1].reshape(shape) if needs[2] else None


def _channels_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, shape: tuple[int, ...], fixed: bool,
                       needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    channels, gx, sums = x.shape[1], None, None
    if needs[1] or needs[2] or not fixed:
        sums = _weight_sums(g, x, mean, rstd, 0, channels, math.prod(x.shape[2:]))
    if needs[0]:
        gx = cupy.empty_like(x)
        rows, n, each = _spread(x.shape)
        over_rows("by_channel_backward", x.dtype, rows, n, g, x, mean, rstd, weight, None if fixed else sums, gx, n,
                  channels, each, channels / x.size, family="norms")
    return gx, *_taken(sums, shape, needs)


def _rows_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, shape: tuple[int, ...],
                   rows: tuple[int, int, int], needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    (width, groups, plane), gx, sums = rows, None, None
    if needs[1] or needs[2]:
        sums = _weight_sums(g, x, mean, rstd, groups, width // plane * groups, plane)
    if needs[0]:
        gx = cupy.empty_like(x)
        over_rows("row_norm_backward", x.dtype, x.size // width, width, g, x, mean, rstd, weight, *rows, gx,
                  family="norms")
    return gx, *_taken(sums, shape, needs)
