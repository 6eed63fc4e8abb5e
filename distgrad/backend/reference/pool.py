"""Pooling in two dimensions: one strided pass over the plane for each place in the window.

Maxima come with the place of the winner in the input plane, from which the gradient is spread
back. Averages divide by what the window covers of the plane and, if wanted, of its padding.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel

__all__ = ["avg_pool2d", "avg_pool2d_backward", "counts", "max_pool2d", "max_pool2d_backward", "max_pool2d_gather"]

Pair = tuple[int, int]


def _spans(index: int, out: int, stride: int, dilation: int) -> slice:
    """The places in the padded plane that stand at `index` in their windows."""
    first = index * dilation
    return slice(first, first + stride * (out - 1) + 1, stride)


def _padded(xp: Any, x: Any, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair,
            value: Any) -> Any:
    """x inside a plane of `value` that is large enough for the last window."""
    h, w = x.shape[-2:]
    need = [max(s * (o - 1) + d * (k - 1) + 1, n + p) for s, o, d, k, n, p in
            zip(stride, out, dilation, kernel_size, (h, w), padding, strict=True)]
    if padding == (0, 0) and need == [h, w]:
        return x
    plane = xp.full((*x.shape[:-2], *need), value, x.dtype)
    plane[..., padding[0]:padding[0] + h, padding[1]:padding[1] + w] = x
    return plane


@kernel
def max_pool2d(xp: Any, x: Any, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair,
               out: Pair) -> tuple[Any, Any]:
    """The maximum of each window of x (N, C, H, W) and its place row * W + column; the first of equals.

    A NaN in a window is its maximum.
    """
    lowest = -xp.inf if x.dtype.kind == "f" else xp.iinfo(x.dtype).min
    width = x.shape[3]
    plane = _padded(xp, x, kernel_size, stride, padding, dilation, out, lowest)
    rows = (xp.arange(out[0]) * stride[0] - padding[0]) * width
    columns = xp.arange(out[1]) * stride[1] - padding[1]
    corner = rows[:, None] + columns
    best = where = inside = None
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            here = plane[..., _spans(i, out[0], stride[0], dilation[0]), _spans(j, out[1], stride[1], dilation[1])]
            place = corner + (i * dilation[0] * width + j * dilation[1])
            fits = None if plane is x else _inside(xp, x, i, j, stride, padding, dilation, out)
            if best is None:
                best, where, inside = here.copy(), xp.empty(here.shape, "int64"), fits
                where[...] = place
                continue
            wins = (here > best) | (here != here)
            if fits is not None:  # the first place that is no padding wins even if it holds -inf
                wins = (wins | ~inside) & fits
                inside = inside | fits
            xp.copyto(best, here, where=wins)
            xp.copyto(where, place, where=wins)
    return best, where


def _inside(xp: Any, x: Any, i: int, j: int, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> Any:
    """For each window (oh, ow), whether its place (i, j) lies in the plane and not in the padding."""
    rows = xp.arange(out[0]) * stride[0] - padding[0] + i * dilation[0]
    columns = xp.arange(out[1]) * stride[1] - padding[1] + j * dilation[1]
    return ((rows >= 0) & (rows < x.shape[2]))[:, None] & ((columns >= 0) & (columns < x.shape[3]))


@kernel
def max_pool2d_backward(xp: Any, g: Any, where: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair,
                        dilation: Pair) -> Any:
    """g added up at the winners' places: (N, C, *size).

    The places alone say where; the window is for devices on which an element better looks for its windows.
    """
    n, c = g.shape[:2]
    pixels = size[0] * size[1]
    flat = (where.reshape(n * c, -1) + pixels * xp.arange(n * c)[:, None]).reshape(-1)
    total = xp.bincount(flat, weights=g.reshape(-1), minlength=n * c * pixels)
    return total.astype(g.dtype, copy=False).reshape(n, c, *size)


@kernel
def max_pool2d_gather(xp: Any, x: Any, where: Any) -> Any:
    """The elements of x (N, C, H, W) at the places in each plane."""
    n, c = x.shape[:2]
    picked = xp.take_along_axis(x.reshape(n, c, -1), where.reshape(n, c, -1), axis=2)
    return picked.reshape(where.shape)


def counts(xp: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair, include_pad: bool,
            divisor: int | None, dtype: Any) -> Any:
    """What each window's sum is divided by: (oh, ow), or one number."""
    if divisor is not None:
        return divisor
    sides = []
    for n, k, s, p, o in zip(size, kernel_size, stride, padding, out, strict=True):
        first = xp.arange(o) * s - p
        last = xp.minimum(first + k, n + p)  # a window of ceil_mode may stick out beyond the padding
        sides.append(last - first if include_pad else xp.minimum(last, n) - xp.maximum(first, 0))
    return (sides[0][:, None] * sides[1]).astype(dtype)


@kernel
def avg_pool2d(xp: Any, x: Any, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair, include_pad: bool,
               divisor: int | None) -> Any:
    """The mean of each window of x (N, C, H, W)."""
    wide = "float32" if x.dtype.itemsize == 2 else x.dtype
    plane = _padded(xp, x, kernel_size, stride, padding, (1, 1), out, 0)
    y = xp.zeros((*x.shape[:2], *out), wide)
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            y += plane[..., _spans(i, out[0], stride[0], 1), _spans(j, out[1], stride[1], 1)]
    y /= counts(xp, x.shape[2:], kernel_size, stride, padding, out, include_pad, divisor, wide)
    return y.astype(x.dtype, copy=False)


@kernel
def avg_pool2d_backward(xp: Any, g: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, out: Pair,
                        include_pad: bool, divisor: int | None) -> Any:
    """Each window's share of g given back to its places: the adjoint of avg_pool2d."""
    dtype = g.dtype
    wide = "float32" if dtype.itemsize == 2 else dtype
    share = g / counts(xp, size, kernel_size, stride, padding, out, include_pad, divisor, wide)
    plane = _padded(xp, xp.zeros((*g.shape[:2], *size), wide), kernel_size, stride, padding, (1, 1), out, 0)
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            plane[..., _spans(i, out[0], stride[0], 1), _spans(j, out[1], stride[1], 1)] += share
    gx = plane[..., padding[0]:padding[0] + size[0], padding[1]:padding[1] + size[1]]
    return xp.ascontiguousarray(gx).astype(dtype, copy=False)
