"""Convolution with stride 1 as products of small matrices, without unfolding windows: a window's places lie where they
lie in the padded plane, and the places of windows that follow each other follow each other too.

Over C pointers: no array objects, no allocation, nothing that can raise. One sample after the other; `size` holds
samples, channels, height, width, outputs, kernel rows and columns, rows and columns of padding above and to the left,
dilation of rows and columns, height and width of the padded plane, rows and columns of windows.

[Note: windows in a line] Windows are numbered along the padded plane, `pitch` to a row, those that stick out at the
end of a row too: they cost a few products, and are not copied to the result.
"""

from __future__ import annotations

from typing import Any

from ..move_vectors import SIDE, copy, turn
from ..row_vectors import inlined
from ..tiles import (
    FEW,
    ROWS,
    few_rows,
    lanes,
    least,
    multiply_add_side,
    nothing,
    read_lanes,
    rows,
    write_column,
    write_tile,
)

__all__ = ["convolve", "convolve_weight"]


@inlined
def _line(own: Any, height: int, plane: Any, panel: int, begin: int, end: int, area: int, channels: int, kh: int,
          kw: int, down: int, right: int) -> None:
    """own[r, p] = sum over a window's places of weight[r] * plane, for the windows p in [begin, end)."""
    for p in range(begin, end, lanes(plane)):
        tile = nothing(own)
        at = panel
        for c in range(channels):
            for i in range(kh):
                here = p + c * area + i * down
                for j in range(kw):
                    tile = multiply_add_side(tile, read_lanes(plane, here + j * right), plane, at)
                    at += height
        write_tile(tile, own, p)


@inlined
def _windows(size: Any, lane: int) -> int:
    """How many windows are computed for a sample: whole rows of lanes."""
    used = (size[13] - 1) * size[12] + size[14]
    return (used + lane - 1) // lane * lane


def convolve(x: Any, weight: Any, bias: Any, y: Any, scratch: Any, size: Any, biased: int) -> None:
    """y = conv(x, weight) + bias.

    `scratch`: padded planes, all zeros, then a row of windows for each output, then the weight in panels: of each
    tile's outputs the factors of one place side by side.
    """
    channels, h, w, outputs, kh, kw = size[1], size[2], size[3], size[4], size[5], size[6]
    top, left, pitch = size[7], size[8], size[12]
    area, down, right = size[11] * pitch, size[9] * pitch, size[10]
    depth, count = channels * kh * kw, _windows(size, lanes(x))
    sums = channels * area + (kh - 1) * down + (kw - 1) * right + lanes(x)
    panels = sums + outputs * count
    for o in range(0, outputs, ROWS):
        own = rows(weight, o * depth, depth, least(ROWS, outputs - o))
        height = FEW if outputs - o <= FEW else ROWS
        for k in range(depth):
            write_column(own, k, scratch, panels + o * depth + k * height)
    for n in range(size[0]):
        for c in range(channels):
            for r in range(h):
                copy(x, ((n * channels + c) * h + r) * w, w, scratch, c * area + (top + r) * pitch + left)
        for o in range(0, outputs, ROWS):
            some = least(ROWS, outputs - o)
            panel = panels + o * depth
            if some <= FEW:
                few = few_rows(scratch, sums + o * count, count, some)
                _line(few, FEW, scratch, panel, 0, count, area, channels, kh, kw, down, right)
            else:
                own = rows(scratch, sums + o * count, count, some)
                _line(own, ROWS, scratch, panel, 0, count, area, channels, kh, kw, down, right)
        for o in range(outputs):
            for r in range(size[13]):
                at, to = sums + o * count + r * pitch, ((n * outputs + o) * size[13] + r) * size[14]
                if biased:
                    for k in range(size[14]):
                        y[to + k] = scratch[at + k] + bias[o]
                else:
                    copy(scratch, at, size[14], y, to)


def convolve_weight(g: Any, x: Any, gw: Any, scratch: Any, size: Any) -> None:
    """gw (outputs, kernel rows, kernel columns, whole channels) += g * x, summed over samples and windows.

    `scratch`: a padded plane whose places have all channels side by side, all zeros, then one tile's sums, then of
    one tile's outputs the gradients at one place side by side.
    """
    channels, h, w, outputs, kh, kw = size[1], size[2], size[3], size[4], size[5], size[6]
    top, left, pitch, high, wide = size[7], size[8], size[12], size[13], size[14]
    whole = (channels + lanes(x) - 1) // lanes(x) * lanes(x)
    down, right, pixels = size[9] * pitch, size[10], h * w
    sums = size[11] * pitch * whole
    panel = sums + ROWS * lanes(x)
    for n in range(size[0]):
        for r in range(h):
            at, to = n * channels * pixels + r * w, ((top + r) * pitch + left) * whole
            squares = channels - channels % SIDE
            strips = w - w % SIDE
            for c in range(0, squares, SIDE):
                for k in range(0, strips, SIDE):
                    turn(x, at + c * pixels + k, pixels, scratch, to + k * whole + c, whole)
            for c in range(channels):
                for k in range(strips if c < squares else 0, w):
                    scratch[to + k * whole + c] = x[at + c * pixels + k]
        for o in range(0, outputs, ROWS):
            some = least(ROWS, outputs - o)
            own = rows(g, (n * outputs + o) * high * wide, high * wide, some)
            for k in range(high * wide):
                write_column(own, k, scratch, panel + k * ROWS)
            tile_rows = rows(scratch, sums, lanes(x), ROWS)
            for i in range(kh):
                for j in range(kw):
                    for c in range(0, whole, lanes(x)):
                        tile = nothing(own)
                        at = panel
                        for r in range(high):
                            here = (r * pitch + i * down + j * right) * whole + c
                            for _ in range(wide):
                                tile = multiply_add_side(tile, read_lanes(scratch, here), scratch, at)
                                here += whole
                                at += ROWS
                        write_tile(tile, tile_rows, 0)
                        for r in range(some):
                            to = (((o + r) * kh + i) * kw + j) * whole + c
                            for k in range(lanes(x)):
                                gw[to + k] += scratch[sums + r * lanes(x) + k]
