"""Which product of arrays is which call of MKL. Planned once for each pair of shapes and strides, then looked up.

[Note: by columns] MKL's products lie in memory by columns, numpy's by rows; a matrix by rows is its own transpose
by columns. So y = a @ b is asked for as y.T = b.T @ a.T, with nothing moved. A matrix is taken as it lies when one
of its last two dimensions has unit stride; everything else goes to numpy, as do small products and other dtypes.
"""

from __future__ import annotations

import ctypes
from itertools import product
from math import prod
from typing import Any

import numpy as np

from ..reference import find
from .mkl import load

__all__ = ["SMALL", "matmul"]

SMALL = 1 << 17  # multiplications up to which numpy is faster, for its call costs less
_MOST = 64       # calls for one product of batches that lie irregularly
_PLANS = 4096    # more shapes than that are not those of one model: forget them

_reference = find("matmul")
_Key = tuple[Any, ...]
_plans: dict[_Key, _Plan | None] = {}
_Start = ctypes.c_char * 0


class _Plan:
    """One product as calls of MKL. What it refers to by address, it keeps.

    Attributes:
        steps: for each call, how many bytes after their beginnings the three matrices lie; None for a single call.
    """

    __slots__ = ("after_a", "after_b", "after_out", "call", "dtype", "front", "kept", "shape", "steps")

    def __init__(self, dtype: Any, shape: tuple[int, ...], sizes: tuple[int, int, int], a: _Matrix, b: _Matrix,
                 ldc: int, batch: list[tuple[int, int, int, int]]) -> None:
        m, n, k = sizes
        self.dtype, self.shape = dtype, shape
        self.kept: dict[Any, Any] = {}
        element = ctypes.c_float if dtype == np.float32 else ctypes.c_double
        # [Note: by columns]: b comes first, and m and n change places.
        self.front = tuple(map(self._keep, (ctypes.c_char(b[0]), ctypes.c_char(a[0]), ctypes.c_int(n), ctypes.c_int(m),
                                            ctypes.c_int(k), element(1))))
        zero = self._keep(element(0))
        ld = [self._keep(ctypes.c_int(size)) for size in (a[1], b[1], ldc)]
        self.steps = None
        if not batch:
            self.call = load().gemm[dtype.name]
            self.after_b, self.after_a, self.after_out = (ld[1],), (ld[0], zero), (ld[2],)
            return
        *outer, (count, *inner) = batch
        self.call = load().batched[dtype.name]
        far = [self._keep(ctypes.c_int(step // dtype.itemsize)) for step in inner]
        self.after_b, self.after_a = (ld[1], far[1]), (ld[0], far[0], zero)
        self.after_out = (ld[2], far[2], self._keep(ctypes.c_int(count)))
        if outer:
            self.steps = [tuple(sum(i * step[axis] for i, (_, *step) in zip(at, outer, strict=True))
                                for axis in range(3)) for at in product(*[range(size) for size, *_ in outer])]

    def _keep(self, value: Any) -> int:
        address = ctypes.addressof(value)
        self.kept[address] = value
        return address

    def __call__(self, a: Any, b: Any, out: Any) -> None:
        if self.steps is None:
            self.call(*self.front, _start(b), *self.after_b, _start(a), *self.after_a, _start(out), *self.after_out)
            return
        at, bt, outt = a.ctypes.data, b.ctypes.data, out.ctypes.data
        for step_a, step_b, step_out in self.steps:
            self.call(*self.front, bt + step_b, *self.after_b, at + step_a, *self.after_a, outt + step_out,
                      *self.after_out)


def matmul(a: Any, b: Any, out: Any = None) -> Any:
    """a @ b, as the reference."""
    if a.size * b.shape[-1] < SMALL:  # most small ones need no key, which costs as much as they do
        return _reference(np, a, b, out)
    key: _Key = (a.dtype, a.shape, a.strides, b.dtype, b.shape, b.strides)
    if out is not None:
        key = (*key, out.dtype, out.shape, out.strides)
    try:
        plan = _plans[key]
    except KeyError:
        plan = _remember(key)
    if plan is None or not (a.flags.aligned and b.flags.aligned):
        return _reference(np, a, b, out)
    if out is None:
        out = np.empty(plan.shape, plan.dtype)
    elif not (out.flags.aligned and out.flags.writeable) or np.may_share_memory(out, a) \
            or np.may_share_memory(out, b):
        return _reference(np, a, b, out)
    plan(a, b, out)
    return out


def _remember(key: _Key) -> _Plan | None:
    if len(_plans) >= _PLANS:
        _plans.clear()
    plan = _plans[key] = _plan(*key)
    return plan


_Matrix = tuple[bytes, int]  # whether to transpose it, and its leading dimension


def _plan(a: Any, shape_a: Any, strides_a: Any, b: Any, shape_b: Any, strides_b: Any, out: Any = None,
          shape_out: Any = None, strides_out: Any = None) -> _Plan | None:
    """The calls for dtypes, shapes and strides; None for what numpy shall do, also refuse."""
    if a != b or a.char not in "fd" or not a.isnative or len(shape_a) < 2 or len(shape_b) < 2:
        return None
    (m, k), n, size = shape_a[-2:], shape_b[-1], a.itemsize
    try:
        front = np.broadcast_shapes(shape_a[:-2], shape_b[:-2])
    except ValueError:
        return None
    shape = (*front, m, n)
    if k != shape_b[-2] or prod(shape) * k < SMALL or max(shape_a + shape_b) >= 1 << 31:
        return None
    if out is None:
        strides_out = tuple(size * prod(shape[i + 1:]) for i in range(len(shape)))
    elif out != a or shape_out != shape:
        return None
    mine, yours = (_matrix(s[-2:], t[-2:], size) for s, t in ((shape_a, strides_a), (shape_b, strides_b)))
    ours = _matrix((m, n), strides_out[-2:], size)
    if mine is None or yours is None or ours is None or ours[0] != b"N":
        return None
    batch = _batch(front, [(0,) * (len(front) - len(s) + 2) + tuple(0 if have == 1 else step for have, step in
                                                                      zip(s[:-2], t[:-2], strict=True))
                           for s, t in ((shape_a, strides_a), (shape_b, strides_b), (shape, strides_out))])
    if prod(step[0] for step in batch[:-1]) > _MOST or any(step % size or not 0 <= step // size < 1 << 31
                                                           for row in batch for step in row[1:]):
        return None
    return _Plan(a, shape, (m, n, k), mine, yours, ours[1], batch)


def _matrix(shape: tuple[int, int], strides: tuple[int, int], size: int) -> _Matrix | None:
    """How a matrix by rows is named to MKL; None if neither dimension has unit stride."""
    (rows, columns), (down, right) = shape, strides
    if (right == size or columns == 1) and (rows == 1 or _apart(down, columns, size)):
        return b"N", columns if rows == 1 else down // size
    if (down == size or rows == 1) and (columns == 1 or _apart(right, rows, size)):
        return b"T", rows if columns == 1 else right // size
    return None


def _apart(step: int, length: int, size: int) -> bool:
    """Whether rows of `length` elements that lie `step` bytes apart are a matrix to MKL."""
    return step % size == 0 and length <= step // size < 1 << 31


def _batch(front: tuple[int, ...], strides: list[tuple[int, ...]]) -> list[tuple[int, int, int, int]]:
    """(count, and how far apart in a, b and out) of each batch dimension, those that are one in memory joined."""
    found: list[tuple[int, int, int, int]] = []
    for count, *steps in zip(front, *strides, strict=True):
        if count == 1:
            continue
        if found and all(before == count * step for before, step in zip(found[-1][1:], steps, strict=True)):
            found[-1] = (found[-1][0] * count, *steps)
        else:
            found.append((count, *steps))
    return found


def _start(x: Any) -> Any:
    """Where an array begins."""
    flags = x.flags
    if flags.writeable:  # both are several times faster than x.ctypes
        if flags.c_contiguous:
            return _Start.from_buffer(x)
        if flags.f_contiguous:
            return _Start.from_buffer(x.T)
    return x.ctypes.data
