"""Maxima and means over windows of planes, and the ways back of their gradients.

Over C pointers: no array objects, no allocation, nothing that can raise. A row of windows is taken through the places
of its window one after the other, so that what is done for a place goes along memory and fits into vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..row_vectors import inlined
from ..tiles import least

__all__ = ["avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward"]


@intrinsic  # type: ignore[misc]
def _wins(typing: Any, here: Any, best: Any) -> Any:
    """here > best, or here is NaN. Not a branch: which of two numbers is larger cannot be foreseen."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.or_(builder.fcmp_ordered(">", *arguments), builder.fcmp_unordered("uno", *arguments[:1] * 2))

    return types.boolean(here, here), code


@intrinsic  # type: ignore[misc]
def _chosen(typing: Any, condition: Any, a: Any, b: Any) -> Any:
    """a if condition else b, both of which are there already."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    kind = types.int64 if isinstance(a, types.Integer) else a
    return kind(types.boolean, kind, kind), code


@inlined
def _first(offset: int, stride: int) -> int:
    """The first window whose place `offset` from its own corner is not left of the plane."""
    return 0 if offset >= 0 else (stride - 1 - offset) // stride


@inlined
def _beat(x: Any, at: int, place: int, stride: int, y: Any, where: Any, to: int, count: int) -> None:
    """What stands at one place of `count` windows in a row wins over what is in y, if it is larger or NaN.

    A window that has nothing yet is marked by a place below 0.
    """
    for k in range(count):
        here, best, before = x[at + k * stride], y[to + k], where[to + k]
        y[to + k] = _chosen(_wins(here, best), here, best)
        where[to + k] = _chosen(_wins(here, best), place + k * stride, _chosen(before < 0, place + k * stride, before))


@inlined
def _halve(x: Any, at: int, place: int, w: int, y: Any, where: Any, to: int, count: int) -> None:
    """A row of windows of 2 x 2 side by side, which most pools are: `_beat` for all four places at a time."""
    for k in range(count):
        i = at + 2 * k
        a, b, c, d = x[i], x[i + 1], x[i + w], x[i + w + 1]
        upper, lower = _chosen(_wins(b, a), b, a), _chosen(_wins(d, c), d, c)
        first, second = _chosen(_wins(b, a), 1, 0), _chosen(_wins(d, c), w + 1, w)
        y[to + k] = _chosen(_wins(lower, upper), lower, upper)
        where[to + k] = place + 2 * k + _chosen(_wins(lower, upper), second, first)


def max_pool2d(x: Any, y: Any, where: Any, planes: int, h: int, w: int, oh: int, ow: int, kh: int, kw: int, sh: int,
               sw: int, ph: int, pw: int, dh: int, dw: int) -> None:
    """Rows, columns: of the plane h, w, of the windows oh, ow, and their kernel, stride, padding, dilation."""
    pairs = kh * kw == 4 and kh == 2 and sh * sw == 4 and sh == 2 and dh * dw == 1 and ph + pw == 0 \
        and 2 * oh <= h and 2 * ow <= w
    for plane in range(planes):
        for r in range(oh):
            to = (plane * oh + r) * ow
            if pairs:
                _halve(x, (plane * h + 2 * r) * w, 2 * r * w, w, y, where, to, ow)
                continue
            for k in range(to, to + ow):
                y[k] = -np.inf
                where[k] = -1
            for i in range(kh):
                row = r * sh - ph + i * dh
                if row < 0 or row >= h:
                    continue
                for j in range(kw):
                    offset = j * dw - pw
                    begin = _first(offset, sw)
                    count = least((w - 1 - offset) // sw + 1, ow) - begin
                    place = row * w + offset + begin * sw
                    at = plane * h * w + place
                    if sw == 2:  # a stride that is known lets the compiler load vectors
                        _beat(x, at, place, 2, y, where, to + begin, count)
                    elif sw == 1:
                        _beat(x, at, place, 1, y, where, to + begin, count)
                    else:
                        _beat(x, at, place, sw, y, where, to + begin, count)
            for k in range(ow):
                if where[to + k] < 0:  # nothing but padding
                    where[to + k] = (r * sh - ph) * w + k * sw - pw


def max_pool2d_backward(g: Any, where: Any, gx: Any, planes: int, windows: int, pixels: int) -> None:
    """gx[plane, where] += g; what lies outside of the plane is left out."""
    for k in range(planes * pixels):
        gx[k] = 0
    for plane in range(planes):
        for k in range(plane * windows, (plane + 1) * windows):
            if 0 <= where[k] < pixels:
                gx[plane * pixels + where[k]] += g[k]


@inlined
def _gather(x: Any, at: int, stride: int, y: Any, to: int, count: int) -> None:
    for k in range(count):
        y[to + k] = y[to + k] + x[at + k * stride]


@inlined
def _spread(share: Any, at: int, gx: Any, to: int, stride: int, count: int) -> None:
    for k in range(count):
        gx[to + k * stride] = gx[to + k * stride] + share[at + k]


def avg_pool2d(x: Any, y: Any, sizes: Any, planes: int, h: int, w: int, oh: int, ow: int, kh: int, kw: int, sh: int,
               sw: int, ph: int, pw: int) -> None:
    """`sizes`: what the sum of each window (oh, ow) is divided by. Other numbers as for `max_pool2d`."""
    for plane in range(planes):
        for r in range(oh):
            to = (plane * oh + r) * ow
            for k in range(to, to + ow):
                y[k] = 0
            for i in range(kh):
                row = r * sh - ph + i
                if row < 0 or row >= h:
                    continue
                for j in range(kw):
                    begin = _first(j - pw, sw)
                    count = least((w - 1 - j + pw) // sw + 1, ow) - begin
                    at = (plane * h + row) * w + j - pw + begin * sw
                    if sw == 2:  # as in `max_pool2d`
                        _gather(x, at, 2, y, to + begin, count)
                    elif sw == 1:
                        _gather(x, at, 1, y, to + begin, count)
                    else:
                        _gather(x, at, sw, y, to + begin, count)
            for k in range(ow):
                y[to + k] = y[to + k] / sizes[r * ow + k]


def avg_pool2d_backward(g: Any, gx: Any, sizes: Any, share: Any, planes: int, h: int, w: int, oh: int, ow: int, kh: int,
                        kw: int, sh: int, sw: int, ph: int, pw: int) -> None:
    """`share`: room for one plane's windows. What a place gets is added up in the order of the window's places."""
    for plane in range(planes):
        for k in range(oh * ow):
            share[k] = g[plane * oh * ow + k] / sizes[k]
        for k in range(plane * h * w, (plane + 1) * h * w):
            gx[k] = 0
        for i in range(kh):
            for j in range(kw):
                begin = _first(j - pw, sw)
                count = least((w - 1 - j + pw) // sw + 1, ow) - begin
                for r in range(oh):
                    row = r * sh - ph + i
                    if row < 0 or row >= h:
                        continue
                    to, at = (plane * h + row) * w + j - pw + begin * sw, r * ow + begin
                    if sw == 1:
                        _spread(share, at, gx, to, 1, count)
                    else:
                        _spread(share, at, gx, to, sw, count)
