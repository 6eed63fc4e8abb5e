"""Convolution with stride 1 and both its adjoints, in loops that unfold no windows; anything else as the reference.

The adjoint in the input is itself a convolution, with the weight turned round. Sums run over channels and places one
after the other, in the weight's adjoint over the windows of a sample and then over samples.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ..reference import convolve as reference
from ._dense import Loops, place, straight

__all__ = ["conv2d", "conv2d_grad_input", "conv2d_grad_weight"]

_CONVOLVE = Loops("convolve", "convolve", "TTTTTNn")
_WEIGHT = Loops("convolve", "convolve_weight", "TTTTN")
_LANES, _ROWS = 64, 12  # bytes of a row of lanes, and rows of a tile at most
_CHANNELS = 8           # from which on lanes of channels are worth their filling
_FEW_COLUMNS = 8        # below, most of the windows in a line would stick out

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def _fits(x: Any, weight: Any, stride: Pair, groups: int, columns: int) -> bool:
    return stride == (1, 1) and groups == 1 and x.dtype == weight.dtype and columns >= _FEW_COLUMNS and x.size > 0 \
        and weight.size > 0


def _sizes(x: Any, outputs: int, kernel_size: Pair, begin: Pair, dilation: Pair, plane: Pair) -> tuple[Any, Pair]:
    """What the loops are told, and how many windows there are."""
    out = reference.out_size(plane, kernel_size, (1, 1), dilation)
    found = (*x.shape, outputs, *kernel_size, *begin, *dilation, *plane, *out)
    return (ctypes.c_int64 * len(found))(*found), out


def _convolved(loop: Any, x: Any, weight: Any, bias: Any, begin: Pair, dilation: Pair, plane: Pair) -> Any:
    """The loop's result for x (N, C, H, W) that lies at `begin` in a plane of zeros."""
    x, weight = straight(x), straight(weight)
    n, channels = x.shape[:2]
    outputs, _, kh, kw = weight.shape
    sizes, out = _sizes(x, outputs, (kh, kw), begin, dilation, plane)
    lanes = _LANES // x.itemsize
    count = -(-((out[0] - 1) * plane[1] + out[1]) // lanes) * lanes
    beyond = (kh - 1) * dilation[0] * plane[1] + (kw - 1) * dilation[1] + lanes
    scratch = np.zeros(channels * plane[0] * plane[1] + beyond + outputs * count
                       + (outputs + _ROWS) * weight[0].size, x.dtype)
    y = np.empty((n, outputs, *out), x.dtype)
    bias = y if bias is None else straight(bias)
    loop(place(x), place(weight), place(bias), place(y), place(scratch), sizes, bias is not y)
    return y


def conv2d(x: Any, weight: Any, bias: Any, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> Any:
    """As the reference. Compiled with stride 1, without groups, for planes that are not too narrow."""
    (top, bottom), (left, right) = pads
    plane = (x.shape[2] + top + bottom, x.shape[3] + left + right)
    columns = plane[1] - dilation[1] * (weight.shape[3] - 1)
    loop = _CONVOLVE[x.dtype] if _fits(x, weight, stride, groups, columns) else None
    if loop is None or (bias is not None and bias.dtype != x.dtype):
        return reference.conv2d(np, x, weight, bias, stride, pads, dilation, groups)
    return _convolved(loop, x, weight, bias, (top, left), dilation, plane)


def conv2d_grad_input(g: Any, weight: Any, size: Pair, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> Any:
    """As the reference. Compiled as `conv2d`, where no padding is wider than the kernel reaches."""
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    fits = _fits(g, weight, stride, groups, size[1]) and all(max(pad) <= r for pad, r in zip(pads, reach, strict=True))
    loop = _CONVOLVE[g.dtype] if fits else None
    if loop is None:
        return reference.conv2d_grad_input(np, g, weight, size, stride, pads, dilation, groups)
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    begin = (reach[0] - pads[0][0], reach[1] - pads[1][0])
    return _convolved(loop, g, turned, None, begin, dilation, (size[0] + reach[0], size[1] + reach[1]))


def conv2d_grad_weight(g: Any, x: Any, kernel_size: Pair, stride: Pair, pads: Pads, dilation: Pair,
                       groups: int) -> Any:
    """As the reference. Compiled with stride 1, without groups, from a few channels on."""
    loop = _WEIGHT[g.dtype] if x.shape[1] >= _CHANNELS and _fits(g, x, stride, groups, _FEW_COLUMNS) else None
    if loop is None:
        return reference.conv2d_grad_weight(np, g, x, kernel_size, stride, pads, dilation, groups)
    g, x = straight(g), straight(x)
    channels, outputs = x.shape[1], g.shape[1]
    (top, bottom), (left, right) = pads
    plane = (x.shape[2] + top + bottom, x.shape[3] + left + right)
    sizes, _ = _sizes(x, outputs, kernel_size, (top, left), dilation, plane)
    lanes = _LANES // x.itemsize
    whole = -(-channels // lanes) * lanes
    scratch = np.zeros(plane[0] * plane[1] * whole + _ROWS * (lanes + g.shape[2] * g.shape[3]), x.dtype)
    gw = np.zeros((outputs, *kernel_size, whole), x.dtype)
    loop(place(g), place(x), place(gw), place(scratch), sizes)
    return np.ascontiguousarray(gw[..., :channels].transpose(0, 3, 1, 2))
