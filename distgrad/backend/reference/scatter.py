"""Reading and writing at computed places, and the recurrence behind cumulative products.

A kernel whose first array is `out` changes it in place and returns it. Where indices repeat, sums
run in the order of the indices, so results do not depend on anything but the inputs.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

from ._register import kernel

__all__ = ["diagonal", "gather", "in_range", "index_add", "index_put", "linear_scan", "logcumsumexp", "rows_of",
           "scatter", "scatter_add"]


@kernel
def in_range(xp: Any, index: Any, low: int, high: int) -> bool:
    """Whether every index is in [low, high). A device on which asking would mean to wait may answer True."""
    return not index.size or (index.min().item() >= low and index.max().item() < high)


@kernel
def diagonal(xp: Any, x: Any, offset: int, dim1: int, dim2: int) -> Any:
    """A view of the diagonals, as their last dimension; writable where x is, which numpy's is not."""
    out = x.diagonal(offset, dim1, dim2)
    if not getattr(out.flags, "writeable", True) and x.flags.writeable:
        out.flags.writeable = True
    return out


def _mesh(xp: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """Index arrays that reach, along `dim`, what `index` says, and in the others their own place."""
    return tuple(index if d == dim else xp.arange(n).reshape((n,) + (1,) * (index.ndim - d - 1))
                 for d, n in enumerate(index.shape))


@kernel
def gather(xp: Any, x: Any, dim: int, index: Any) -> Any:
    """out[i][j][k] = x[i][index[i][j][k]][k], for dim = 1 of three."""
    return x[_mesh(xp, dim, index)] if index.ndim else x[index]


@kernel
def scatter(xp: Any, out: Any, dim: int, index: Any, source: Any) -> Any:
    """out[i][index[i][j][k]][k] = source[i][j][k], for dim = 1 of three; the last of equals stays."""
    out[_mesh(xp, dim, index) or ...] = source
    return out


@kernel
def scatter_add(xp: Any, out: Any, dim: int, index: Any, source: Any) -> Any:
    """Like scatter, but adds."""
    key = _mesh(xp, dim, index)
    if not out.flags.c_contiguous or not key:
        _add_at(xp, out, key or ..., source)
        return out
    place = 0
    for at, size in zip(key, out.shape, strict=True):
        place = place * size + at
    return _add_flat(xp, out, place, source)


def _add_at(xp: Any, out: Any, key: Any, source: Any) -> None:
    """out[key] += source with every repetition counted, through other types where a device has no such sum in its own.

    cupy adds so in float16, float32, float64 and whole numbers of 32 and 64 bits.
    """
    try:
        xp.add.at(out, key, source)
    except TypeError:
        kind = out.dtype.kind
        if kind == "c":
            xp.add.at(out.real, key, source.real)
            xp.add.at(out.imag, key, source.imag)
        elif kind in "biu" and out.dtype.itemsize < 4:
            wide = out.astype("int64")
            xp.add.at(wide, key, source)
            out[...] = wide
        else:
            raise


def _add_flat(xp: Any, out: Any, places: Any, source: Any) -> Any:
    """out.ravel()[places] += source: numpy adds five times faster at one index than at several."""
    _add_at(xp, out.reshape(-1), places.reshape(-1), xp.broadcast_to(source, places.shape).reshape(-1))
    return out


def rows_of(xp: Any, out: Any, key: tuple[Any, ...], value: Any) -> tuple[Any, Any] | None:
    """(index, source) with which index_add does the same as adding at `key`; None where it is not that simple."""
    if len(key) != 1 or key[0] is ... or key[0].dtype.kind not in "iu":
        return None
    index = key[0]
    source = xp.broadcast_to(value, index.shape + out.shape[1:]).reshape((-1,) + out.shape[1:])
    return index.reshape(-1) % max(out.shape[0], 1), source


@kernel
def index_put(xp: Any, out: Any, key: tuple[Any, ...], value: Any, accumulate: bool) -> Any:
    """out[key] = value, or out[key] += value with every repetition counted."""
    rows = rows_of(xp, out, key, value) if accumulate else None
    if not accumulate:
        out[key] = value
    elif rows is not None:
        index_add(xp, out, 0, *rows)
    elif any(getattr(part, "dtype", None) is not None and part.dtype.kind != "b" for part in key):
        _add_at(xp, out, key, value)
    else:
        out[key] += value  # masks and slices never reach an element twice
    return out


@kernel
def index_add(xp: Any, out: Any, dim: int, index: Any, source: Any) -> Any:
    """out[..., index[i], ...] += source[..., i, ...] along `dim`; `index` is 1-d, repetitions add up."""
    if not out.flags.c_contiguous:
        _add_at(xp, out, (slice(None),) * dim + (index,), source)
        return out
    front, behind = math.prod(out.shape[:dim]), math.prod(out.shape[dim + 1:])
    rows = (xp.arange(front) * out.shape[dim])[:, None] + index
    return _add_flat(xp, out, rows[..., None] * behind + xp.arange(behind), source.reshape(front, -1, behind))


@kernel
def linear_scan(xp: Any, a: Any, b: Any) -> Any:
    """s[0] = b[0]; s[i] = b[i] + a[i] * s[i - 1], along the last dimension."""
    out = xp.empty_like(b)
    if b.shape[-1]:
        out[..., 0] = b[..., 0]
    for i in range(1, b.shape[-1]):
        out[..., i] = b[..., i] + a[..., i] * out[..., i - 1]
    return out


@kernel
def logcumsumexp(xp: Any, x: Any, dim: int) -> Any:
    """log of the running sums of exp(x) along `dim`; where the device's logaddexp has no scan, by doubling steps."""
    with suppress(NotImplementedError):
        return xp.logaddexp.accumulate(x, axis=dim)
    out = xp.moveaxis(x, dim, 0)
    step = 1
    while step < len(out):
        out = xp.concatenate((out[:step], xp.logaddexp(out[step:], out[:-step])))
        step *= 2
    return xp.moveaxis(out, 0, dim) if step > 1 else x.copy()
