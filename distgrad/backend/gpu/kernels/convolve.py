"""Convolution and its gradients: by cuDNN where it is installed and takes them, else by products of unfolded windows.

As many samples are unfolded at a time as fit into a bounded piece of memory: one kernel, one product. The gradient of
the input is gathered: each of its elements adds up the windows that it lies in, in one order, without atomics.
Geometry is as in the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cupy

from ...reference.convolve import out_size
from .. import cudnn
from .launch import ELEMENTS, add_family, over_lines, over_rows, plain
from .products import multiply

__all__ = ["conv2d", "conv2d_grad_input", "conv2d_grad_weight"]

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]

BYTES = 1 << 28  # of unfolded windows at a time

add_family("convolve", r"""
// Of x (samples, channels, h, w), the window's place (i, j) at (oy, ox) of sample s goes to
// s * sample + ((c * kh + i) * kw + j) * row + oy * ow + ox; a thread for each (s, c, oy, ox).
extern "C" __global__ void unfold(const T* x, T* cols, I n, I channels, I h, I w, I kh, I kw, I oh, I ow, I sh, I sw,
                                  I top, I left, I dh, I dw, I sample, I row) {
    EACH(e, n) {
        I s = e, ox = split(s, ow), oy = split(s, oh), c = split(s, channels);
        const T* plane = x + (s * channels + c) * h * w;
        T* to = cols + s * sample + c * kh * kw * row + oy * ow + ox;
        for (I i = 0; i < kh; i++) {
            I y = oy * sh - top + i * dh;
            for (I j = 0; j < kw; j++, to += row) {
                I at = ox * sw - left + j * dw;
                *to = y >= 0 && y < h && at >= 0 && at < w ? plane[y * w + at] : (T)0;
            }
        }
    }
}

// The adjoint, a thread for each element of gx: cols (samples, channels, kh, kw, oh, ow).
extern "C" __global__ void fold(const T* cols, T* gx, I n, I channels, I h, I w, I kh, I kw, I oh, I ow, I sh, I sw,
                                I top, I left, I dh, I dw) {
    EACH(e, n) {
        I plane = e, x = split(plane, w), y = split(plane, h);
        const T* from = cols + plane * kh * kw * oh * ow;
        T sum = 0;
        for (I i = 0; i < kh; i++) {
            I oy = y + top - i * dh;
            if (oy < 0) break;
            if (split(oy, sh) || oy >= oh) continue;
            for (I j = 0; j < kw; j++) {
                I ox = x + left - j * dw;
                if (ox < 0) break;
                if (split(ox, sw) || ox >= ow) continue;
                sum += from[((i * kw + j) * oh + oy) * ow + ox];
            }
        }
        gx[e] = sum;
    }
}

// A row for each channel of each sample: the channel's bias, added or laid out.
extern "C" __global__ void channel_bias(const T* bias, T* y, I n, I channels, int add) {
    T b = bias[blockIdx.x % channels];
    y += (I)blockIdx.x * n;
    OVER_ROW(j) y[j] = add ? y[j] + b : b;
}
""")


def _halves(kernel: Callable[..., Any], *args: Any) -> Any:
    """A kernel in float32, for arrays of float16, which cuDNN alone takes as they are."""
    return kernel(*[a.astype("float32") if isinstance(a, cupy.ndarray) else a for a in args]).astype("float16")


def _takes(*arrays: Any) -> bool:
    first = arrays[0].dtype
    return (first in ELEMENTS or first == "float16") and all(a is None or (a.size and a.dtype == first) for a in arrays)


def _bare(kernel_size: Pair, stride: Pair, pads: Pads) -> bool:
    """Whether a window is one place, and there is one for each place of the input: nothing is to be unfolded."""
    return kernel_size == (1, 1) and stride == (1, 1) and pads == ((0, 0), (0, 0))


class _Windows:
    """The unfolded windows of an input (N, C, *size), of as many samples at a time as memory is given for."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, kernel_size: Pair, out: Pair, stride: Pair, pads: Pads,
                 dilation: Pair) -> None:
        self.samples, self.channels = shape[:2]
        self.depth, self.pixels = self.channels * math.prod(kernel_size), math.prod(out)
        self.dtype = dtype
        self.places = math.prod(shape[2:])
        self._sizes = *shape[1:], *kernel_size, *out, *stride, pads[0][0], pads[1][0], *dilation
        self._step = max(1, BYTES // (self.depth * self.pixels * dtype.itemsize))
        self.buffer = cupy.empty(min(self._step, self.samples) * self.depth * self.pixels, dtype)

    def chunks(self) -> list[tuple[int, int]]:
        """(first, behind the last) of the samples that are unfolded together."""
        return [(first, min(first + self._step, self.samples)) for first in range(0, self.samples, self._step)]

    def of(self, count: int) -> Any:
        """The memory for `count` samples."""
        return self.buffer[:count * self.depth * self.pixels]

    def unfold(self, x: Any, beside: bool) -> Any:
        """The windows of these samples: (samples, depth, pixels), or `beside` each other (depth, samples, pixels)."""
        count = x.shape[0]
        sample, row = (self.pixels, count * self.pixels) if beside else (self.depth * self.pixels, self.pixels)
        over_lines("convolve", "unfold", self.dtype, count * self.channels * self.pixels, x, self.buffer,
                   count * self.channels * self.pixels, *self._sizes, sample, row)
        return self.of(count)

    def fold(self, gx: Any) -> None:
        """Give what lies in the memory for windows back to the places of these samples."""
        over_lines("convolve", "fold", self.dtype, gx.size, self.buffer, gx, gx.size, *self._sizes)


def _add_bias(y: Any, bias: Any, add: bool) -> None:
    if y.dtype not in ELEMENTS:
        y += bias.reshape(-1, 1, 1)
        return
    channels, pixels = y.shape[1], math.prod(y.shape[2:])
    over_rows("channel_bias", y.dtype, y.shape[0] * channels, pixels, bias, y, pixels, channels, add,
              family="convolve")


def conv2d(x: Any, weight: Any, bias: Any, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> Any:
    if not _takes(x, weight, bias):
        return plain("conv2d", x)(x, weight, bias, stride, pads, dilation, groups)
    x, weight = cupy.ascontiguousarray(x), cupy.ascontiguousarray(weight)
    bias = None if bias is None else cupy.ascontiguousarray(bias)
    n, o, kernel_size = x.shape[0], weight.shape[0], weight.shape[2:]
    padded = x.shape[2] + sum(pads[0]), x.shape[3] + sum(pads[1])
    out = out_size(padded, kernel_size, stride, dilation)
    y = cupy.empty((n, o, *out), x.dtype)
    if cudnn.convolve("fprop", x, weight, y, stride, pads, dilation):
        if bias is not None:
            _add_bias(y, bias, True)
        return y
    if x.dtype not in ELEMENTS:
        return _halves(conv2d, x, weight, bias, stride, pads, dilation, groups)
    if bias is not None:
        _add_bias(y, bias, False)
    w = weight.reshape(groups, o // groups, -1)
    to = y.reshape(n, groups, o // groups, -1)
    if _bare(kernel_size, stride, pads):
        multiply(w, x.reshape(n, groups, w.shape[2], -1), to, add=bias is not None)
        return y
    windows = _Windows(x.shape, x.dtype, kernel_size, out, stride, pads, dilation)
    for first, last in windows.chunks():
        cols = windows.unfold(x[first:last], False).reshape(last - first, groups, w.shape[2], -1)
        multiply(w, cols, to[first:last], add=bias is not None)
    return y


def conv2d_grad_input(g: Any, weight: Any, size: Pair, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> Any:
    if not _takes(g, weight) or 0 in size:
        return plain("conv2d_grad_input", g)(g, weight, size, stride, pads, dilation, groups)
    g, weight = cupy.ascontiguousarray(g), cupy.ascontiguousarray(weight)
    n, o, *out = g.shape
    kernel_size = weight.shape[2:]
    gx = cupy.empty((n, weight.shape[1] * groups, *size), g.dtype)
    if cudnn.convolve("dgrad", gx, weight, g, stride, pads, dilation):
        return gx
    if g.dtype not in ELEMENTS:
        return _halves(conv2d_grad_input, g, weight, size, stride, pads, dilation, groups)
    w = weight.reshape(groups, o // groups, -1).swapaxes(1, 2)
    g = g.reshape(n, groups, o // groups, -1)
    if _bare(kernel_size, stride, pads):
        multiply(w, g, gx.reshape(n, groups, w.shape[1], -1))
        return gx
    windows = _Windows(gx.shape, g.dtype, kernel_size, (out[0], out[1]), stride, pads, dilation)
    for first, last in windows.chunks():
        multiply(w, g[first:last], windows.of(last - first).reshape(last - first, groups, w.shape[1], -1))
        windows.fold(gx[first:last])
    return gx


def conv2d_grad_weight(g: Any, x: Any, kernel_size: Pair, stride: Pair, pads: Pads, dilation: Pair,
                       groups: int) -> Any:
    if not _takes(g, x) or 0 in kernel_size:
        return plain("conv2d_grad_weight", g)(g, x, kernel_size, stride, pads, dilation, groups)
    g, x = cupy.ascontiguousarray(g), cupy.ascontiguousarray(x)
    _, o, *out = g.shape
    gw = cupy.empty((o, x.shape[1] // groups, *kernel_size), g.dtype)
    if cudnn.convolve("wgrad", x, gw, g, stride, pads, dilation):
        return gw
    if g.dtype not in ELEMENTS:
        return _halves(conv2d_grad_weight, g, x, kernel_size, stride, pads, dilation, groups)
    windows = _Windows(x.shape, x.dtype, kernel_size, (out[0], out[1]), stride, pads, dilation)
    to = gw.reshape(groups, o // groups, -1)
    for first, last in windows.chunks():
        cols = windows.unfold(x[first:last], True).reshape(groups, to.shape[2], -1)
        turned = cupy.ascontiguousarray(g[first:last].swapaxes(0, 1)).reshape(groups, o // groups, -1)
        multiply(turned, cols.swapaxes(1, 2), to, add=first > 0)
    return gw
