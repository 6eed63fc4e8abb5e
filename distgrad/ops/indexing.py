"""Indexing as torch and numpy write it: reading (`getitem`) and writing (`index_put`).

A key is split in two. Its basic part (ints, slices, None, Ellipsis) makes a view; index tensors and
masks then apply to that view. So ints beside index tensors select first, as in torch.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.function import Function
from ._arguments import beside, made_of, made_there, raw
from .cast import cast

__all__ = ["GetItem", "Index", "IndexPut", "IndexSum", "SliceScatter", "getitem", "index_put", "parse_key"]

_ALL = slice(None)
_BASIC = (int, slice, type(None), type(Ellipsis))


def parse_key(like: Any, shape: tuple[int, ...], key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[bool, ...]]:
    """A key as (basic, indices, layout).

    Args:
        like: an array of the device on which index tensors are made of lists.

    Returns:
        basic: a tuple of ints, slices, None and one Ellipsis, which makes a view.
        indices: index tensors and masks for that view; empty when the key is basic.
        layout: for each leading dimension (or mask) of that view whether an index belongs there.

    Raises:
        IndexError: too many indices, two Ellipses, or a number that is no integer.
        TypeError: something that is no index.
        ValueError: a slice whose step is not positive.
    """
    parts = key if isinstance(key, tuple) else (key,)
    parts = [part if part.__class__ in _BASIC else _part(like, part) for part in parts]
    _expand_ellipsis(shape, parts, key)
    basic: list[Any] = []
    indices: list[Any] = []
    layout: list[bool] = []
    for part in parts:
        if part is None or part.__class__ is slice:
            if part is not None and part is not _ALL:
                part = _checked_slice(part)
            basic.append(part)
            layout.append(False)
        elif part.__class__ is int:
            basic.append(part)
        elif part.__class__ is bool:  # a new dimension, of one element or of none
            basic.append(None)
            indices.append(made_there(like, [0] * part, "int64"))
            layout.append(True)
        else:
            basic.extend([_ALL] * (raw(part).ndim if part.dtype.kind == "b" else 1))
            indices.append(part)
            layout.append(True)
    return (*basic, Ellipsis), tuple(indices), tuple(layout) if indices else ()


def _part(like: Any, part: Any) -> Any:
    """One part of a key as int, bool, slice, or an index array or tensor."""
    array = raw(part)
    if isinstance(part, bool):
        return part
    if not hasattr(array, "dtype"):
        if hasattr(part, "__index__"):
            return part.__index__()
        if not isinstance(part, (list, range, tuple)):
            kind = IndexError if isinstance(part, float) else TypeError
            raise kind("indices are integers, slices, None, Ellipsis, and integer or boolean tensors, got "
                       f"{type(part).__name__}")
        part = array = made_there(like, [raw(item) for item in part])
        if not array.size:
            part = array = array.astype("int64")
    kind = array.dtype.kind
    if array.dtype == "uint8":  # torch has always read bytes as a mask
        part = array = array.astype("bool")
    elif kind not in "biu":
        raise IndexError(f"an index tensor has an integer or boolean dtype, got {array.dtype}")
    if array.ndim == 0:
        return array.item()
    return part


def _checked_slice(part: slice) -> slice:
    bounds = [None if b is None else raw(b).item() if hasattr(raw(b), "dtype") else b
              for b in (part.start, part.stop, part.step)]
    if bounds[2] is not None and bounds[2] <= 0:
        raise ValueError(f"a slice has a positive step, got {bounds[2]}; flip() reverses a dimension")
    return slice(*bounds)


def _expand_ellipsis(shape: tuple[int, ...], parts: list[Any], key: Any) -> None:
    """Replace the Ellipsis, or its absence at the end, by full slices, in place."""
    used = 0
    at = None
    for position, part in enumerate(parts):
        if part is Ellipsis:
            if at is not None:
                raise IndexError("an index holds at most one Ellipsis")
            at = position
        elif part.__class__ is int or part.__class__ is slice:
            used += 1
        elif part is not None and part.__class__ is not bool:
            used += raw(part).ndim if part.dtype.kind == "b" else 1
    missing = len(shape) - used
    if missing < 0:
        raise IndexError(f"{used} indices for a tensor with {len(shape)} dimensions, shape {tuple(shape)}")
    if at is not None:
        parts[at:at + 1] = [_ALL] * missing


def _at(x: Any, key: Any) -> Any:
    """x[key] with an error that says the shape."""
    try:
        return x[key]
    except IndexError as error:
        raise IndexError(f"an index does not fit shape {tuple(x.shape)}: {error}") from None


def _picked(x: Any, key: Any) -> Any:
    """x[key] with index tensors in the key; cupy says of those that do not fit each other what others say of values."""
    try:
        return _at(x, key)
    except ValueError as error:
        raise IndexError(f"an index does not fit shape {tuple(x.shape)}: {error}") from None


def _full_key(layout: tuple[bool, ...], indices: tuple[Any, ...]) -> tuple[Any, ...]:
    """The key for raw arrays: an index where layout says so, full slices elsewhere."""
    following = iter(indices)
    return tuple([next(following) if at else _ALL for at in layout])


class GetItem(Function):
    """Basic indexing: a view."""

    name = "Slice"
    view = True

    def forward(ctx: Any, x: Any, key: tuple[Any, ...]) -> Any:
        ctx.key, ctx.inside = key, x.shape
        return _at(x, key)

    def vjp(ctx: Any, g: Any) -> Any:
        return SliceScatter.apply(g, key=ctx.key, size=ctx.inside)


class SliceScatter(Function):
    """Zeros with x at the places that a basic key names: what GetItem's gradient is."""

    def forward(ctx: Any, x: Any, key: tuple[Any, ...], size: tuple[int, ...]) -> Any:
        ctx.key = key
        out = of(x).xp.zeros(size, x.dtype)
        out[key] = x
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        return GetItem.apply(g, key=ctx.key)


class Index(Function):
    """Indexing by tensors of integers and masks: a copy."""

    def forward(ctx: Any, x: Any, *indices: Any, layout: tuple[bool, ...]) -> Any:
        ctx.layout, ctx.inside = layout, x.shape
        ctx.save(*indices)
        return _picked(x, _full_key(layout, indices))

    def vjp(ctx: Any, g: Any) -> Any:
        indices = ctx.saved
        gx = IndexSum.apply(g, *indices, layout=ctx.layout, size=ctx.inside)
        return (gx,) + (None,) * len(indices)


class IndexSum(Function):
    """Zeros with x added at the places that indices name, repeated ones summed: Index's gradient."""

    def forward(ctx: Any, x: Any, *indices: Any, layout: tuple[bool, ...], size: tuple[int, ...]) -> Any:
        ctx.layout = layout
        ctx.save(*indices)
        backend = of(x)
        out = backend.xp.zeros(size, x.dtype)
        return backend.kernels.index_put(out, _full_key(layout, indices), x, True)

    def vjp(ctx: Any, g: Any) -> Any:
        indices = ctx.saved
        return (Index.apply(g, *indices, layout=ctx.layout),) + (None,) * len(indices)


class IndexPut(Function):
    """A copy of x with other values at the places that a key names, or with values added there."""

    def forward(ctx: Any, x: Any, value: Any, *indices: Any, basic: tuple[Any, ...], layout: tuple[bool, ...],
                accumulate: bool) -> Any:
        ctx.basic, ctx.layout, ctx.accumulate = basic, layout, accumulate
        ctx.save(*indices)
        out = of(x).xp.array(x)
        target = _at(out, basic)
        key = _full_key(layout, indices) or (...,)
        try:
            of(x).kernels.index_put(target, key, value, accumulate)
        except ValueError:
            raise RuntimeError(f"index_put: values of shape {tuple(value.shape)} do not broadcast to the indexed part "
                               f"{tuple(_picked(target, key).shape)} of shape {tuple(x.shape)}") from None
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        indices = ctx.saved
        gx = gvalue = None
        if ctx.needs(0):
            gx = g if ctx.accumulate else IndexPut.apply(g, _zero(g), *indices, basic=ctx.basic, layout=ctx.layout,
                                                         accumulate=False)
        if ctx.needs(1):
            gvalue = GetItem.apply(g, key=ctx.basic)
            if indices:
                gvalue = Index.apply(gvalue, *indices, layout=ctx.layout)
        return (gx, gvalue) + (None,) * len(indices)


def _zero(g: Any) -> Any:
    array = raw(g)
    return of(array).xp.zeros((), array.dtype)


def getitem(x: Any, key: Any) -> Any:
    """x[key]. A view for ints, slices, None and Ellipsis; a copy where index tensors or masks take part.

    Raises:
        IndexError: the key does not fit the shape, or is no index.
        ValueError: a slice with a step that is not positive.
    """
    if key.__class__ is int:
        return GetItem.apply(x, key=(key, Ellipsis))
    basic, indices, layout = parse_key(raw(x), x.shape, key)
    if not indices:
        return GetItem.apply(x, key=basic)
    indices = beside(x, indices)
    if any(part is not _ALL and part is not Ellipsis for part in basic):
        x = GetItem.apply(x, key=basic)
    return Index.apply(x, *indices, layout=layout)


def _part_ndim(ndim: int, indices: tuple[Any, ...]) -> int:
    """How many dimensions a view of `ndim` dimensions has after index tensors were applied."""
    if not indices:
        return ndim
    masks = [part.dtype.kind == "b" for part in indices]
    sizes = [len(part.shape) for part in indices]
    used = sum(n if mask else 1 for n, mask in zip(sizes, masks, strict=True))
    return ndim - used + max(1 if mask else n for n, mask in zip(sizes, masks, strict=True))


def index_put(x: Any, key: Any, value: Any, accumulate: bool = False) -> Any:
    """A copy of x in which x[key] is `value`; with `accumulate` value is added, repeated indices each time.

    Args:
        key: whatever x[key] takes.
        value: a number, array or tensor that broadcasts to x[key].

    Raises:
        RuntimeError: value does not broadcast to x[key].
    """
    array = raw(x)
    basic, indices, layout = parse_key(array, x.shape, key)
    indices = beside(x, indices)
    if not hasattr(value, "dtype"):
        value = made_of(array, value)
    elif value.dtype != array.dtype:
        value = cast(value, array.dtype)
    extra = len(value.shape) - _part_ndim(array[basic].ndim, indices)
    if extra > 0 and all(n == 1 for n in value.shape[:extra]):
        value = getitem(value, (0,) * extra)
    return IndexPut.apply(x, value, *indices, basic=basic, layout=layout, accumulate=accumulate)
