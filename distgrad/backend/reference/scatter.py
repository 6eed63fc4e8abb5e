"""Reading and writing at computed places, and the recurrence behind cumulative products.

A kernel whose first array is `out` changes it in place and returns it. Where indices repeat, sums
run in the order of the indices, so results do not depend on anything but the inputs.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel

__all__ = ["diagonal", "gather", "in_range", "index_add", "index_put", "linear_scan", "scatter", "scatter_add"]


@kernel
def in_range(xp: Any, index: Any, low: int, high: int) -> bool:
    """Whether every index is in [low, high). A device on which asking would mean to wait may answer True."""
    return not index.size or (int(index.min()) >= low and int(index.max()) < high)


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
    xp.add.at(out, _mesh(xp, dim, index) or ..., source)
    return out


@kernel
def index_put(xp: Any, out: Any, key: tuple[Any, ...], value: Any, accumulate: bool) -> Any:
    """out[key] = value, or out[key] += value with every repetition counted."""
    if not accumulate:
        out[key] = value
    elif any(getattr(part, "dtype", None) is not None and part.dtype.kind != "b" for part in key):
        xp.add.at(out, key, value)
    else:
        out[key] += value  # masks and slices never reach an element twice
    return out


@kernel
def index_add(xp: Any, out: Any, dim: int, index: Any, source: Any) -> Any:
    """out[..., index[i], ...] += source[..., i, ...] along `dim`; `index` is 1-d, repetitions add up."""
    xp.add.at(out, (slice(None),) * dim + (index,), source)
    return out


@kernel
def linear_scan(xp: Any, a: Any, b: Any) -> Any:
    """s[0] = b[0]; s[i] = b[i] + a[i] * s[i - 1], along the last dimension."""
    out = xp.empty_like(b)
    if b.shape[-1]:
        out[..., 0] = b[..., 0]
    for i in range(1, b.shape[-1]):
        out[..., i] = b[..., i] + a[..., i] * out[..., i - 1]
    return out
