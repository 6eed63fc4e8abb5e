"""Elements moved, mirrored, cut and padded: flip, roll, pad, diagonals, triangles, windows."""

from __future__ import annotations

from typing import Any

from .._typing import Dims, Shape
from ..backend import of
from ..graph.function import Function
from ._arguments import one_dim, raw, size_tuple, take_dims
from ._kernels import Kernels
from .indexed import index_select
from .indexing import getitem
from .views import flatten, movedim, narrow, reshape, unflatten

__all__ = ["ConstantPad", "Diagonal", "DiagonalScatter", "Flip", "Roll", "Tril", "Triu", "diag", "diag_embed",
           "diagonal", "flip", "fliplr", "flipud", "pad", "roll", "rot90", "tril", "triu", "unfold"]


class Flip(Function):
    """Some dimensions in reverse order."""

    def forward(ctx: Any, x: Any, dims: tuple[int, ...]) -> Any:
        ctx.dims = dims
        return of(x).xp.flip(x, dims).copy()

    def vjp(ctx: Any, g: Any) -> Any:
        return Flip.apply(g, dims=ctx.dims)


class Roll(Function):
    """Elements shifted around; what leaves at one end enters at the other."""

    def forward(ctx: Any, x: Any, shifts: tuple[int, ...], dims: tuple[int, ...]) -> Any:
        ctx.shifts, ctx.dims = shifts, dims
        return of(x).xp.roll(x, shifts, dims)

    def vjp(ctx: Any, g: Any) -> Any:
        return Roll.apply(g, shifts=tuple([-n for n in ctx.shifts]), dims=ctx.dims)


class ConstantPad(Function):
    """A frame of one value around x; `widths` has (before, after) for each dimension."""

    name = "ConstantPadNd"

    def forward(ctx: Any, x: Any, widths: tuple[tuple[int, int], ...], value: Any) -> Any:
        size = tuple([n + before + after for n, (before, after) in zip(x.shape, widths, strict=True)])
        ctx.key = tuple([slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True)])
        out = of(x).xp.full(size, value, dtype=x.dtype)
        out[ctx.key] = x
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        return getitem(g, ctx.key)


class Diagonal(Function):
    """Diagonals of two dimensions as the last one: a view."""

    view = True

    def forward(ctx: Any, x: Any, offset: int, dim1: int, dim2: int) -> Any:
        ctx.place, ctx.inside = (offset, dim1, dim2), x.shape
        return of(x).kernels.diagonal(x, offset, dim1, dim2)

    def vjp(ctx: Any, g: Any) -> Any:
        offset, dim1, dim2 = ctx.place
        return DiagonalScatter.apply(g, size=ctx.inside, offset=offset, dim1=dim1, dim2=dim2)


class DiagonalScatter(Function):
    """Zeros with x on the diagonals: Diagonal's gradient."""

    def forward(ctx: Any, x: Any, size: Shape, offset: int, dim1: int, dim2: int) -> Any:
        ctx.place = (offset, dim1, dim2)
        backend = of(x)
        out = backend.xp.zeros(size, x.dtype)
        backend.kernels.diagonal(out, offset, dim1, dim2)[...] = x
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        offset, dim1, dim2 = ctx.place
        return Diagonal.apply(g, offset=offset, dim1=dim1, dim2=dim2)


class Tril(Function):
    """The lower triangle, zeros above."""

    def forward(ctx: Any, x: Any, diagonal: int) -> Any:
        ctx.diagonal = diagonal
        return of(x).xp.tril(x, diagonal)

    def vjp(ctx: Any, g: Any) -> Any:
        return Tril.apply(g, diagonal=ctx.diagonal)


class Triu(Function):
    """The upper triangle, zeros below."""

    def forward(ctx: Any, x: Any, diagonal: int) -> Any:
        ctx.diagonal = diagonal
        return of(x).xp.triu(x, diagonal)

    def vjp(ctx: Any, g: Any) -> Any:
        return Triu.apply(g, diagonal=ctx.diagonal)


def flip(x: Any, dims: Any) -> Any:
    """A copy with the dimensions `dims` in reverse order."""
    found = take_dims("flip", tuple(dims) if isinstance(dims, (tuple, list)) else dims, len(x.shape))
    return Flip.apply(x, dims=found if len(x.shape) else ())


def fliplr(x: Any) -> Any:
    """Columns in reverse order; RuntimeError below two dimensions."""
    if len(x.shape) < 2:
        raise RuntimeError(f"fliplr: needs at least 2 dimensions, got shape {tuple(x.shape)}")
    return flip(x, 1)


def flipud(x: Any) -> Any:
    """Rows in reverse order; RuntimeError for a 0-d tensor."""
    if not len(x.shape):
        raise RuntimeError("flipud: a 0-d tensor has no rows")
    return flip(x, 0)


def rot90(x: Any, k: int = 1, dims: Any = (0, 1)) -> Any:
    """Turned by k quarter turns in the plane of two dimensions, from the first towards the second.

    Raises:
        RuntimeError: `dims` are not two different dimensions.
    """
    if len(dims) != 2 or len(x.shape) < 2:
        raise RuntimeError(f"rot90: turns in the plane of two dimensions, got dims {tuple(dims)} of shape "
                           f"{tuple(x.shape)}")
    found = take_dims("rot90", tuple(dims), len(x.shape))
    first, second = found
    turns = k % 4
    if turns == 0:
        return flip(x, ())
    if turns == 2:
        return flip(x, (first, second))
    order = list(range(len(x.shape)))
    order[first], order[second] = second, first
    turned = movedim(x, order, list(range(len(order))))
    return flip(turned, first if turns == 1 else second)


def roll(x: Any, shifts: Any, dims: Dims = None) -> Any:
    """Elements shifted by `shifts` along `dims`; what leaves at one end enters at the other.

    Without `dims` the flattened tensor is shifted.

    Raises:
        RuntimeError: not one shift for each dim.
    """
    steps = size_tuple("roll", shifts)
    if dims is None or dims == ():
        if len(steps) != 1:
            raise RuntimeError(f"roll: {len(steps)} shifts without dims; give one dim for each")
        return reshape(Roll.apply(flatten(x), shifts=steps, dims=(0,)), tuple(x.shape))
    wanted = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    if len(wanted) != len(steps):
        raise RuntimeError(f"roll: {len(steps)} shifts for {len(wanted)} dims; give one dim for each")
    if not len(x.shape):
        raise IndexError("roll: a 0-d tensor has no dims")
    return Roll.apply(x, shifts=steps, dims=tuple([one_dim("roll", d, len(x.shape)) for d in wanted]))


def pad(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """x with elements added around it.

    Args:
        pad: (before, after) for the last dimension, then for the one before it, and so on; negative numbers cut.
        mode: 'constant', 'reflect' (without repeating the edge), 'replicate' (the edge) or 'circular'.
        value: what 'constant' pads with; 0 when None.

    Raises:
        RuntimeError: an odd number of widths, more than x has dimensions, or more than the mode can take from x.
        NotImplementedError: another mode.
    """
    widths = size_tuple("pad", pad)
    ndim = len(x.shape)
    if len(widths) % 2 or len(widths) > 2 * ndim:
        raise RuntimeError(f"pad: takes pairs (before, after), at most one for each of {ndim} dimensions, got {widths}")
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise NotImplementedError(f"pad: mode is 'constant', 'reflect', 'replicate' or 'circular', got {mode!r}")
    pairs = [(0, 0)] * (ndim - len(widths) // 2) + [(widths[i], widths[i + 1]) for i in range(len(widths) - 2, -1, -2)]
    if mode != "constant" and value is not None:
        raise RuntimeError(f"pad: mode {mode!r} takes no value, got {value!r}")
    for dim, (before, after) in enumerate(pairs):
        cut_before, cut_after = max(-before, 0), max(-after, 0)
        if cut_before or cut_after:
            left = x.shape[dim] - cut_before - cut_after
            if left < 0:
                raise RuntimeError(f"pad: {pad} cuts more than dim {dim} of shape {tuple(x.shape)} has")
            x = narrow(x, dim, cut_before, left)
    pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if mode == "constant":
        return ConstantPad.apply(x, widths=tuple(pairs), value=0 if value is None else value)
    for dim, (before, after) in enumerate(pairs):
        if before or after:
            x = index_select(x, dim, _sources(x, dim, before, after, mode))
    return x


def _sources(x: Any, dim: int, before: int, after: int, mode: str) -> Any:
    """For each place of the padded dimension the place in x that it copies."""
    size = x.shape[dim]
    limit = {"reflect": size - 1, "circular": size, "replicate": max(before, after) if size else 0}[mode]
    if max(before, after) > limit:
        raise RuntimeError(f"pad: mode {mode!r} adds at most {max(limit, 0)} elements at an end of dim {dim} of shape "
                           f"{tuple(x.shape)}, got {(before, after)}")
    return _padded(raw(x), size, before, after, mode)


def _padded_places(xp: Any, like: Any, size: int, before: int, after: int, mode: str) -> Any:
    places = xp.arange(-before, size + after)
    if mode == "replicate":
        return xp.clip(places, 0, size - 1)
    if mode == "circular":
        return places % size
    places = xp.abs(places)
    return xp.where(places >= size, 2 * (size - 1) - places, places)


_padded = Kernels(_padded_places)


def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of dimensions dim1 and dim2 as a new last dimension: a view.

    Raises:
        RuntimeError: dim1 and dim2 are the same.
    """
    first, second = _plane("diagonal", dim1, dim2, len(x.shape))
    return Diagonal.apply(x, offset=offset, dim1=first, dim2=second)


def _plane(name: str, dim1: int, dim2: int, ndim: int) -> tuple[int, int]:
    first, second = one_dim(name, dim1, ndim), one_dim(name, dim2, ndim)
    if first == second:
        raise RuntimeError(f"{name}: dim1 and dim2 are the same dimension {first}")
    return first, second


def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Square matrices in dimensions dim1 and dim2 of the result, with x's last dimension on their diagonal."""
    if not len(x.shape):
        raise IndexError("diag_embed: needs at least one dimension")
    first, second = _plane("diag_embed", dim1, dim2, len(x.shape) + 1)
    side = x.shape[-1] + abs(offset)
    size = list(x.shape[:-1])
    for at in sorted((first, second)):
        size.insert(at, side)
    return DiagonalScatter.apply(x, size=tuple(size), offset=offset, dim1=first, dim2=second)


def diag(x: Any, diagonal: int = 0) -> Any:
    """A vector as a matrix with it on a diagonal; a matrix's diagonal as a vector of its own.

    Raises:
        RuntimeError: neither one nor two dimensions.
    """
    if len(x.shape) == 1:
        return diag_embed(x, diagonal)
    if len(x.shape) != 2:
        raise RuntimeError(f"diag: takes a vector or a matrix, got shape {tuple(x.shape)}")
    below, right = max(-diagonal, 0), max(diagonal, 0)
    length = max(min(x.shape[0] - below, x.shape[1] - right), 0)
    return getitem(x, (_from(raw(x), below, length), _from(raw(x), right, length)))


_from = Kernels(lambda xp, like, first, length: xp.arange(first, first + length))


def _matrices(name: str, x: Any) -> None:
    if len(x.shape) < 2:
        raise RuntimeError(f"{name}: needs at least 2 dimensions, got shape {tuple(x.shape)}")


def tril(x: Any, diagonal: int = 0) -> Any:
    """The lower triangle of each matrix up to a diagonal (0 the main one, 1 the one above); zeros elsewhere."""
    _matrices("tril", x)
    return Tril.apply(x, diagonal=diagonal)


def triu(x: Any, diagonal: int = 0) -> Any:
    """The upper triangle of each matrix from a diagonal (0 the main one, 1 the one above); zeros elsewhere."""
    _matrices("triu", x)
    return Triu.apply(x, diagonal=diagonal)


def unfold(x: Any, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` elements, every `step` elements of a dimension, as a new last dimension.

    The dimension becomes the number of windows, (n - size) // step + 1. A copy: windows may overlap.

    Raises:
        RuntimeError: a window larger than the dimension, or a step that is not positive.
    """
    at = one_dim("unfold", dimension, len(x.shape))
    total = x.shape[at] if len(x.shape) else 1
    if size < 0 or size > total or step < 1:
        raise RuntimeError(f"unfold: windows of {size} elements every {step} do not fit dim {dimension}, of size "
                           f"{total}")
    if not len(x.shape):
        return narrow(reshape(x, (1,)), 0, 0, size)
    count = (total - size) // step + 1
    places = _windows(raw(x), count, size, step)
    return movedim(unflatten(index_select(x, at, places), at, (count, size)), at + 1, -1)


_windows = Kernels(lambda xp, like, count, size, step: (xp.arange(count)[:, None] * step + xp.arange(size)).reshape(-1))
