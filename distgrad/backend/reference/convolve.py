"""Convolution in two dimensions as matrix products over unfolded windows (im2col), and both gradients.

The windows of a few samples at a time are unfolded into one buffer that is used again and stays in
cache; the weights stand on the left, so results land in (batch, channel, height, width) order.
`pads` is ((top, bottom), (left, right)); stride and dilation are (vertical, horizontal).
"""

from __future__ import annotations

from typing import Any

from ._register import kernel
from ._wide import wide

__all__ = ["BUFFER", "conv2d", "conv2d_grad_bias", "conv2d_grad_input", "conv2d_grad_weight", "out_size"]

BUFFER = 1 << 18  # elements of unfolded windows worked on at a time: 1 MiB of float32

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def _padded(xp: Any, x: Any, pads: Pads) -> Any:
    """x with zeros around its last two dimensions."""
    (top, bottom), (left, right) = pads
    if not (top or bottom or left or right):
        return x
    n, c, h, w = x.shape
    out = xp.zeros((n, c, h + top + bottom, w + left + right), x.dtype)
    out[:, :, top:top + h, left:left + w] = x
    return out


def _windows(xp: Any, x: Any, kernel_size: Pair, out: Pair, stride: Pair, dilation: Pair) -> Any:
    """A view of padded x as (batch, channel, kernel row, kernel column, row, column)."""
    n, c = x.shape[:2]
    s0, s1, s2, s3 = x.strides
    return xp.lib.stride_tricks.as_strided(
        x, (n, c, *kernel_size, *out),
        (s0, s1, s2 * dilation[0], s3 * dilation[1], s2 * stride[0], s3 * stride[1]))


def _chunk(depth: int, pixels: int) -> int:
    """How many samples are unfolded at a time."""
    return max(1, BUFFER // max(1, depth * pixels))


@kernel
def conv2d(xp: Any, x: Any, weight: Any, bias: Any, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> Any:
    """Cross-correlation of x (N, C, H, W) with weight (O, C / groups, kh, kw), plus bias (O,)."""
    dtype = x.dtype
    x, weight = wide(x), wide(weight)
    n, c = x.shape[:2]
    o, depth, kh, kw = weight.shape
    x = _padded(xp, x, pads)
    oh, ow = out_size(x.shape[2:], (kh, kw), stride, dilation)
    y = xp.empty((n, groups, o // groups, oh * ow), x.dtype)
    w = weight.reshape(groups, o // groups, depth * kh * kw)
    windows = _windows(xp, x, (kh, kw), (oh, ow), stride, dilation)
    step = _chunk(c * kh * kw, oh * ow)
    buffer = xp.empty((min(step, n), c, kh, kw, oh, ow), x.dtype)
    for start in range(0, n, step):
        count = min(step, n - start)
        cols = buffer[:count]
        cols[...] = windows[start:start + count]
        xp.matmul(w, cols.reshape(count, groups, depth * kh * kw, oh * ow), out=y[start:start + count])
    y = y.reshape(n, o, oh, ow)
    if bias is not None:
        y += bias.reshape(1, o, 1, 1)
    return y.astype(dtype, copy=False)


@kernel
def conv2d_grad_input(xp: Any, g: Any, weight: Any, size: Pair, stride: Pair, pads: Pads, dilation: Pair,
                      groups: int) -> Any:
    """The adjoint of conv2d in x: g (N, O, oh, ow) spread back to (N, C, *size) (a transposed convolution)."""
    dtype = g.dtype
    g, weight = wide(g), wide(weight)
    n, o, oh, ow = g.shape
    _, depth, kh, kw = weight.shape
    c = depth * groups
    (top, bottom), (left, right) = pads
    gx = xp.zeros((n, c, size[0] + top + bottom, size[1] + left + right), g.dtype)
    w = weight.reshape(groups, o // groups, depth * kh * kw).transpose(0, 2, 1)
    g = g.reshape(n, groups, o // groups, oh * ow)
    step = _chunk(c * kh * kw, oh * ow)
    for start in range(0, n, step):
        stop = min(start + step, n)
        cols = xp.matmul(w, g[start:stop]).reshape(stop - start, c, kh, kw, oh, ow)
        part = gx[start:stop]
        for i in range(kh):
            rows = slice(i * dilation[0], i * dilation[0] + stride[0] * (oh - 1) + 1, stride[0])
            for j in range(kw):
                columns = slice(j * dilation[1], j * dilation[1] + stride[1] * (ow - 1) + 1, stride[1])
                part[:, :, rows, columns] += cols[:, :, i, j]
    gx = gx[:, :, top:top + size[0], left:left + size[1]]
    return xp.ascontiguousarray(gx).astype(dtype, copy=False)


@kernel
def conv2d_grad_weight(xp: Any, g: Any, x: Any, kernel_size: Pair, stride: Pair, pads: Pads, dilation: Pair,
                       groups: int) -> Any:
    """The adjoint of conv2d in the weight: g (N, O, oh, ow) and x (N, C, H, W) give (O, C / groups, kh, kw)."""
    dtype = g.dtype
    g, x = wide(g), wide(x)
    n, o, oh, ow = g.shape
    c = x.shape[1]
    kh, kw = kernel_size
    depth = c // groups * kh * kw
    x = _padded(xp, x, pads)
    windows = _windows(xp, x, kernel_size, (oh, ow), stride, dilation).transpose(1, 2, 3, 0, 4, 5)
    g = g.transpose(1, 0, 2, 3)
    gw = xp.zeros((groups, o // groups, depth), g.dtype)
    step = _chunk(c * kh * kw, oh * ow)
    for start in range(0, n, step):
        stop = min(start + step, n)
        cols = windows[:, :, :, start:stop].reshape(groups, depth, -1)
        gw += xp.matmul(g[:, start:stop].reshape(groups, o // groups, -1), cols.transpose(0, 2, 1))
    return gw.reshape(o, c // groups, kh, kw).astype(dtype, copy=False)


@kernel
def conv2d_grad_bias(xp: Any, g: Any) -> Any:
    """The sum of g (N, O, oh, ow) over all places of all samples: (O,)."""
    return wide(g).sum((0, 2, 3)).astype(g.dtype, copy=False)


def out_size(size: Pair, kernel_size: Pair, stride: Pair, dilation: Pair) -> Pair:
    """How many windows fit into a padded plane, vertically and horizontally."""
    h, w = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(size, kernel_size, stride, dilation, strict=True))
    return h, w
