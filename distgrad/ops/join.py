"""Tensors put together, taken apart and repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import of
from ..graph.function import Function
from ._arguments import beside, one_dim, raw, same_dtype, size_tuple
from ._kernels import Kernels
from .indexed import index_select
from .indexing import getitem
from .views import expand, flatten, reshape, unsqueeze

__all__ = ["Cat", "Split", "Stack", "Unbind", "cat", "chunk", "dstack", "hstack", "repeat", "repeat_interleave",
           "split", "stack", "tile", "unbind", "vstack"]


def _along(dim: int, part: Any) -> tuple[Any, ...]:
    return (slice(None),) * dim + (part,)


class Cat(Function):
    """Tensors one behind the other along a dimension."""

    def forward(ctx: Any, *xs: Any, dim: int) -> Any:
        ctx.dim, ctx.sizes = dim, [x.shape[dim] for x in xs]
        return of(xs[0]).xp.concatenate(xs, axis=dim)

    def vjp(ctx: Any, g: Any) -> Any:
        grads = []
        start = 0
        for i, size in enumerate(ctx.sizes):
            grads.append(getitem(g, _along(ctx.dim, slice(start, start + size))) if ctx.needs(i) else None)
            start += size
        return tuple(grads)


class Stack(Function):
    """Tensors of one shape side by side in a new dimension."""

    def forward(ctx: Any, *xs: Any, dim: int) -> Any:
        ctx.dim, ctx.count = dim, len(xs)
        return of(xs[0]).xp.stack(xs, axis=dim)

    def vjp(ctx: Any, g: Any) -> Any:
        return tuple([getitem(g, _along(ctx.dim, i)) if ctx.needs(i) else None for i in range(ctx.count)])


def _zeros(node: Any, i: int, like: Any) -> Any:
    """The cotangent of an output that no gradient reached."""
    return of(raw(like)).xp.zeros(node.shape[i], node.dtype[i])


class Split(Function):
    """Consecutive parts of a dimension: views."""

    view = True

    def forward(ctx: Any, x: Any, sizes: tuple[int, ...], dim: int) -> Any:
        ctx.dim = dim
        parts = []
        start = 0
        for size in sizes:
            parts.append(x[_along(dim, slice(start, start + size))])
            start += size
        return tuple(parts)

    def vjp(ctx: Any, g: Any) -> Any:
        if ctx.outputs == 1:
            return g
        like = next(part for part in g if part is not None)
        return Cat.apply(*[_zeros(ctx, i, like) if part is None else part for i, part in enumerate(g)], dim=ctx.dim)


class Unbind(Function):
    """The parts of a dimension, each without it: views."""

    view = True

    def forward(ctx: Any, x: Any, dim: int) -> Any:
        ctx.dim = dim
        return tuple([x[(*_along(dim, i), ...)] for i in range(x.shape[dim])])

    def vjp(ctx: Any, g: Any) -> Any:
        if ctx.outputs == 1:
            return unsqueeze(g, ctx.dim)
        like = next(part for part in g if part is not None)
        return Stack.apply(*[_zeros(ctx, i, like) if part is None else part for i, part in enumerate(g)], dim=ctx.dim)


def _sequence(name: str, tensors: Any, kind: type[Exception] = RuntimeError) -> list[Any]:
    if not isinstance(tensors, (tuple, list)):
        raise TypeError(f"{name}: takes a tuple or list of tensors, got {type(tensors).__name__}")
    if not tensors:
        raise kind(f"{name}: the list of tensors is empty")
    return same_dtype(tensors)


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors one behind the other along `dim`; other sizes are equal. Dtypes promote.

    Raises:
        ValueError: no tensors.
        RuntimeError: sizes differ in another dimension.
    """
    xs = _sequence("cat", tensors, ValueError)
    ndim = max(len(x.shape) for x in xs)
    if ndim != 1:
        # An empty vector goes with tensors of any number of dimensions, as in torch.
        xs = [x for x in xs if tuple(x.shape) != (0,)]
    if ndim == 0:
        raise RuntimeError("cat: 0-d tensors have no dimension to join along; use stack()")
    at = one_dim("cat", dim, ndim)
    first = tuple(xs[0].shape)
    for i, x in enumerate(xs):
        shape = tuple(x.shape)
        if len(shape) != len(first) or shape[:at] != first[:at] or shape[at + 1:] != first[at + 1:]:
            raise RuntimeError(f"cat: tensor {i} has shape {shape}, which does not fit {first} except along dim {dim}")
    return Cat.apply(*xs, dim=at)


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors of one shape side by side in a new dimension `dim`.

    Raises:
        RuntimeError: no tensors, or shapes differ.
    """
    xs = _sequence("stack", tensors)
    first = tuple(xs[0].shape)
    for i, x in enumerate(xs):
        if tuple(x.shape) != first:
            raise RuntimeError(f"stack: tensor {i} has shape {tuple(x.shape)}, the first one {first}")
    return Stack.apply(*xs, dim=one_dim("stack", dim, len(first) + 1))


def _at_least(x: Any, ndim: int) -> Any:
    """x with dimensions of size one added as numpy's atleast_1d, 2d and 3d do."""
    shape = tuple(x.shape)
    if len(shape) >= ndim:
        return x
    full = {1: (1,), 2: (1,) * (2 - len(shape)) + shape,
            3: (1, 1, 1) if not shape else (1, *shape, 1) if len(shape) == 1 else (*shape, 1)}
    return reshape(x, full[ndim])


def hstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along dimension 1 (vectors: along 0)."""
    xs = [_at_least(x, 1) for x in _sequence("hstack", tensors)]
    return cat(xs, 0 if len(xs[0].shape) == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along dimension 0; vectors count as rows."""
    return cat([_at_least(x, 2) for x in _sequence("vstack", tensors)], 0)


def dstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along dimension 2."""
    return cat([_at_least(x, 3) for x in _sequence("dstack", tensors)], 2)


def split(x: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Consecutive parts along `dim`: views.

    Args:
        split_size_or_sections: the size of each part (the last one may be smaller), or a list of sizes.

    Raises:
        RuntimeError: sizes that are negative or do not add up.
    """
    shape = tuple(x.shape)
    if not shape:
        raise RuntimeError("split: a 0-d tensor has no dimension to split")
    at = one_dim("split", dim, len(shape))
    total = shape[at]
    if isinstance(split_size_or_sections, (tuple, list)):
        sizes = size_tuple("split", split_size_or_sections)
        if sum(sizes) != total or min(sizes, default=0) < 0:
            raise RuntimeError(f"split: sizes {sizes} do not add up to {total}, the size of dim {dim} of {shape}")
    else:
        (size,) = size_tuple("split", split_size_or_sections)
        if size < 0 or (size == 0 and total):
            raise RuntimeError(f"split: the size of a part is positive, got {size} for dim {dim} of {shape}")
        sizes = tuple([min(size, total - start) for start in range(0, total, size or 1)]) or (0,)
    return Split.apply(x, sizes=sizes, dim=at)


def chunk(x: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most `chunks` parts of equal size along `dim` (the last one may be smaller): views.

    Raises:
        RuntimeError: `chunks` is not positive.
    """
    if chunks < 1:
        raise RuntimeError(f"chunk: the number of chunks is positive, got {chunks}")
    total = x.shape[one_dim("chunk", dim, len(x.shape))] if len(x.shape) else 0
    if not total:
        return split(x, (0,) * chunks, dim)
    return split(x, -(-total // chunks), dim)


def unbind(x: Any, dim: int = 0) -> tuple[Any, ...]:
    """All parts of dimension `dim`, each without it: views.

    Raises:
        IndexError: a 0-d tensor.
    """
    if not len(x.shape):
        raise IndexError("unbind: a 0-d tensor has no dimension to take apart")
    at = one_dim("unbind", dim, len(x.shape))
    return Unbind.apply(x, dim=at) if x.shape[at] else ()


def repeat(x: Any, sizes: Any) -> Any:
    """x repeated sizes[i] times along dimension i; more sizes than dimensions add dimensions in front.

    Raises:
        RuntimeError: fewer sizes than dimensions, or a negative one.
    """
    times = size_tuple("repeat", sizes)
    extra = len(times) - len(x.shape)
    if extra < 0 or min(times, default=0) < 0:
        raise RuntimeError(f"repeat: {times} for shape {tuple(x.shape)}: one count that is not negative for each dim")
    shape = (1,) * extra + tuple(x.shape)
    between = tuple([part for n in shape for part in (1, n)])
    wide = tuple([part for k, n in zip(times, shape, strict=True) for part in (k, n)])
    return reshape(expand(reshape(x, between), wide),
                   tuple([k * n for k, n in zip(times, shape, strict=True)]))


def tile(x: Any, dims: Any) -> Any:
    """Like `repeat`, but missing counts in front are one."""
    times = size_tuple("tile", dims)
    return repeat(x, (1,) * (len(x.shape) - len(times)) + times)


def repeat_interleave(x: Any, repeats: Any, dim: int | None = None) -> Any:
    """Each element (each part along `dim`) repeated in place; without `dim` x is flattened first.

    Args:
        repeats: one count, or a tensor with one count for each part.

    Raises:
        RuntimeError: a negative count, or the wrong number of counts.
    """
    if dim is None:
        x, dim = flatten(x), 0
    elif not len(x.shape):
        raise IndexError("repeat_interleave: a 0-d tensor has no dims; leave dim out")
    at = one_dim("repeat_interleave", dim, len(x.shape))
    size = x.shape[at]
    counts = raw(repeats)
    if not hasattr(counts, "dtype"):
        counts = int(counts)
    elif counts.size == 1:
        counts = counts.item()
    if isinstance(counts, int):
        if counts < 0:
            raise RuntimeError(f"repeat_interleave: a count is not negative, got {counts}")
        shape = tuple(x.shape)
        wide = expand(unsqueeze(x, at + 1), (*shape[:at + 1], counts, *shape[at + 1:]))
        return reshape(wide, (*shape[:at], size * counts, *shape[at + 1:]))
    if counts.shape != (size,) or bool(_any_negative(counts)):
        raise RuntimeError(f"repeat_interleave: {size} counts that are not negative for dim {dim} of shape "
                           f"{tuple(x.shape)}, got shape {tuple(counts.shape)}")
    return index_select(x, at, *beside(x, (_repeated(counts, size),)))


_any_negative = Kernels(lambda xp, counts: (counts < 0).any())
_repeated = Kernels(lambda xp, counts, size: xp.repeat(xp.arange(size), counts))
