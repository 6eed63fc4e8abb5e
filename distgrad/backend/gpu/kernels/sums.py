"""Sums over rows and planes of (rows, channels, plane), in at most two launches and always in the same order.

A block sums a part of the rows for one channel, or for up to 32 that are neighbours in memory; a second launch adds the
parts. Bias gradients are such sums; `norms` takes what normalisation needs of its channels in the same way.
"""

from __future__ import annotations

import math
from typing import Any

import cupy

from .launch import add_family, fits, on_blocks, plain

__all__ = ["CHANNELS", "Parts", "conv2d_grad_bias", "sum_leading"]

CHANNELS = r"""
// What a thread takes of x (rows, channels, plane): elements `lane`, `lane + lanes`, ... of channel c, in the rows from
// `begin` on.
struct Share { I c, part, begin, lane, lanes, elements; };

__device__ inline Share share(I rows, I channels, I plane, I chunk, I wide) {
    I tiles = (channels + wide - 1) / wide, me = threadIdx.x;
    Share s;
    s.part = blockIdx.x / tiles;
    s.c = blockIdx.x % tiles * wide + me % wide;
    s.begin = s.part * chunk;
    s.lane = me / wide;
    s.lanes = blockDim.x / wide;
    s.elements = s.c < channels ? (s.begin + chunk < rows ? chunk : rows - s.begin) * plane : 0;
    return s;
}
"""
add_family("sums", CHANNELS + r"""
// Of each part, the sum: out (parts, channels).
extern "C" __global__ void channel_sums(const T* x, I rows, I channels, I plane, I chunk, I wide, T* out) {
    __shared__ T shared[256];
    Share s = share(rows, channels, plane, chunk, wide);
    T sum = 0;
    for (I e = s.lane; e < s.elements; e += s.lanes) {
        I row = e, p = split(row, plane);
        sum += x[((s.begin + row) * channels + s.c) * plane + p];
    }
    sum = add_lanes(sum, shared, wide);
    if (s.lane == 0 && s.c < channels) out[s.part * channels + s.c] = sum;
}
""")

_BLOCKS = 1024  # that together fill a device
_PARTS = 128  # at most
_LEAST = _PARTS * 32  # elements of a part of a tile, so that the sum of parts is one part itself


class Parts:
    """How (rows, channels, plane) is divided: by the shape alone, so that sums have the same order on every device.

    Attributes:
        sizes: what kernels take: rows, channels, plane, rows of a part, channels of a block.
        count: of parts.
    """

    def __init__(self, rows: int, channels: int, plane: int) -> None:
        wide = 1
        while plane < 8 and wide < min(channels, 32):
            wide *= 2
        self.tiles = -(-channels // wide)
        chunk = -(-rows // max(1, min(_BLOCKS // self.tiles, rows * plane * wide // _LEAST, _PARTS)))
        self.count = -(-rows // chunk)
        self.sizes = rows, channels, plane, chunk, wide

    def run(self, family: str, name: str, dtype: Any, *args: Any) -> None:
        """Run a kernel with a block for each part of each tile of channels."""
        on_blocks(family, name, dtype, self.tiles * self.count, *args)

    def added(self, partial: Any) -> Any:
        """What each part came to, (parts, ...), added up."""
        return partial[0] if self.count == 1 else _sums(partial, self.count, partial[0].size, 1).reshape(
            partial.shape[1:])


def _sums(x: Any, rows: int, channels: int, plane: int) -> Any:
    parts = Parts(rows, channels, plane)
    partial = cupy.empty((parts.count, channels), x.dtype)
    parts.run("sums", "channel_sums", x.dtype, x, *parts.sizes, partial)
    return parts.added(partial)


def sum_leading(x: Any, count: int) -> Any:
    channels = math.prod(x.shape[count:])
    if channels < 2 or not x.size or not fits(x):
        return plain("sum_leading", x)(x, count)
    return _sums(x, x.size // channels, channels, 1).reshape(x.shape[count:])


def conv2d_grad_bias(g: Any) -> Any:
    if not g.size or not fits(g):
        return plain("conv2d_grad_bias", g)(g)
    return _sums(g, g.shape[0], g.shape[1], g.shape[2] * g.shape[3])
