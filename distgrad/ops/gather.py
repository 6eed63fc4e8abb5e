"""Elements of one dimension chosen by an index tensor or a mask: gather, scatter, nonzero.

Each pair of reading and adding is the other's gradient, so all orders of derivatives exist.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.function import Function
from ._arguments import made_of, one_dim, plain, raw
from ._kernels import Kernels
from .indexing import getitem, index_put
from .views import broadcast_tensors, expand, flatten, reshape, unsqueeze

__all__ = ["Gather", "Pick", "Scatter", "ScatterAdd", "argwhere", "check_range", "gather", "integers", "masked_scatter",
           "masked_select", "nonzero", "one_hot", "scatter", "scatter_add", "take_along_dim"]


class Gather(Function):
    """x at the places that `index` names along `dim`."""

    def forward(ctx: Any, x: Any, index: Any, dim: int) -> Any:
        ctx.dim, ctx.inside = dim, x.shape
        ctx.save(index)
        return of(x).kernels.gather(x, dim, index)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        return _ScatterSum.apply(g, index, dim=ctx.dim, size=ctx.inside), None


class _ScatterSum(Function):
    """Zeros with x added at the places that `index` names: Gather's gradient."""

    name = "ScatterAdd"

    def forward(ctx: Any, x: Any, index: Any, dim: int, size: tuple[int, ...]) -> Any:
        ctx.dim = dim
        ctx.save(index)
        backend = of(x)
        return backend.kernels.scatter_add(backend.xp.zeros(size, x.dtype), dim, index, x)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        return Gather.apply(g, index, dim=ctx.dim), None


class Pick(Function):
    """x at chosen places along `dim`, none of them twice: what max, sort and their kin return.

    Without `keepdim` there is one place, and the dimension disappears.
    """

    def forward(ctx: Any, x: Any, index: Any, dim: int, keepdim: bool) -> Any:
        ctx.dim, ctx.keepdim, ctx.inside = dim, keepdim, x.shape
        ctx.save(index)
        out = of(x).xp.take_along_axis(x, index, dim)
        return out if keepdim else out.squeeze(dim)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        if not ctx.keepdim:
            g = unsqueeze(g, ctx.dim)
        return _Place.apply(g, index, dim=ctx.dim, size=ctx.inside), None


class _Place(Function):
    """Zeros with x at chosen places along `dim`: Pick's gradient."""

    def forward(ctx: Any, x: Any, index: Any, dim: int, size: tuple[int, ...]) -> Any:
        ctx.dim = dim
        ctx.save(index)
        backend = of(x)
        return backend.kernels.scatter(backend.xp.zeros(size, x.dtype), dim, index, x)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        return Pick.apply(g, index, dim=ctx.dim, keepdim=True), None


class Scatter(Function):
    """A copy of x with values of `source` at the places that `index` names along `dim`."""

    def forward(ctx: Any, x: Any, source: Any, index: Any, dim: int) -> Any:
        ctx.dim = dim
        ctx.save(index)
        return of(x).kernels.scatter(x.copy(), dim, index, source)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        gx = None
        if ctx.needs(0):
            gx = Scatter.apply(g, of(raw(g)).xp.zeros((), g.dtype), index, dim=ctx.dim)
        return gx, Gather.apply(g, index, dim=ctx.dim) if ctx.needs(1) else None, None


class ScatterAdd(Function):
    """A copy of x with values of `source` added at the places that `index` names along `dim`."""

    def forward(ctx: Any, x: Any, source: Any, index: Any, dim: int) -> Any:
        ctx.dim = dim
        ctx.save(index)
        return of(x).kernels.scatter_add(x.copy(), dim, index, source)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        return g, Gather.apply(g, index, dim=ctx.dim) if ctx.needs(1) else None, None


def integers(name: str, index: Any, kind: type[Exception] = RuntimeError) -> Any:
    """The raw index array, checked to hold integers."""
    array = raw(index)
    if not hasattr(array, "dtype") or array.dtype.kind not in "iu":
        found = array.dtype if hasattr(array, "dtype") else type(index).__name__
        raise kind(f"{name}: the index is an integer tensor, got {found}")
    return array


def check_range(name: str, index: Any, size: int, low: int = 0, kind: type[Exception] = IndexError) -> None:
    """Raise `kind` unless every index of a raw array is in [low, size)."""
    if not of(index).kernels.in_range(index, low, size):
        raise kind(f"{name}: indices from {index.min().item()} to {index.max().item()} do not fit a dimension of "
                   f"size {size}")


def _checked(name: str, x: Any, dim: int, index: Any) -> tuple[Any, Any, int]:
    """(x, index, dim) with 0-d tensors as vectors and every index in range."""
    array = integers(name, index)
    at = one_dim(name, dim, len(x.shape))
    if not len(x.shape):
        x = reshape(x, (1,))
    if not array.ndim:
        index = reshape(index, (1,))
        array = raw(index)
    if len(x.shape) != array.ndim:
        raise RuntimeError(f"{name}: index and tensor have as many dimensions, got shapes {tuple(array.shape)} and "
                           f"{tuple(x.shape)}")
    if any(n > have for d, (n, have) in enumerate(zip(array.shape, x.shape, strict=True)) if d != at):
        raise RuntimeError(f"{name}: index of shape {tuple(array.shape)} exceeds the tensor's {tuple(x.shape)} outside "
                           f"dim {dim}")
    check_range(name, array, x.shape[at], kind=RuntimeError)
    return x, index, at


def gather(x: Any, dim: int, index: Any) -> Any:
    """out[i][j][k] = x[i][index[i][j][k]][k], for dim = 1 of three; the shape is that of `index`.

    Raises:
        RuntimeError: shapes that do not fit, an index out of range, or no integer tensor.
    """
    shape = tuple(raw(index).shape)
    x, index, at = _checked("gather", x, dim, index)
    return reshape(Gather.apply(x, index, dim=at), shape)


def _source(name: str, x: Any, source: Any, shape: tuple[int, ...]) -> Any:
    """The part of `source` that an index of this shape uses, in the dtype of x."""
    if not hasattr(source, "dtype"):
        return made_of(raw(x), source)
    have = tuple(source.shape)
    if source.dtype != x.dtype:
        raise RuntimeError(f"{name}: source has dtype {source.dtype}, the tensor {x.dtype}; cast one with .to()")
    if not have:
        return reshape(source, (1,) * len(shape))
    if len(have) != len(shape) or any(n > m for n, m in zip(shape, have, strict=True)):
        raise RuntimeError(f"{name}: index of shape {shape} exceeds source of shape {have}")
    return source if have == shape else getitem(source, tuple([slice(n) for n in shape]))


def scatter(x: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy of x where out[i][index[i][j][k]][k] = src[i][j][k], for dim = 1 of three.

    Args:
        src: a tensor at least as large as `index`, or a number. Where an index repeats, one value stays,
            and the gradient is that of all of them.

    Raises:
        RuntimeError: shapes or dtypes that do not fit, or an index out of range.
    """
    shape = tuple(x.shape)
    x, index, at = _checked("scatter", x, dim, index)
    source = _source("scatter", x, src, tuple(raw(index).shape))
    return reshape(Scatter.apply(x, source, index, dim=at), shape)


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy of x where src[i][j][k] is added to out[i][index[i][j][k]][k], for dim = 1 of three.

    Raises:
        RuntimeError: shapes or dtypes that do not fit, or an index out of range.
    """
    shape = tuple(x.shape)
    x, index, at = _checked("scatter_add", x, dim, index)
    source = _source("scatter_add", x, src, tuple(raw(index).shape))
    return reshape(ScatterAdd.apply(x, source, index, dim=at), shape)


def take_along_dim(x: Any, indices: Any, dim: int | None = None) -> Any:
    """`gather` where the other dimensions broadcast; without `dim` on the flattened x.

    Raises:
        RuntimeError: different numbers of dimensions, or shapes that do not broadcast.
    """
    if dim is None:
        return gather(flatten(x), 0, flatten(indices))
    at = one_dim("take_along_dim", dim, len(x.shape))
    if len(x.shape) != len(indices.shape):
        raise RuntimeError(f"take_along_dim: index and tensor have as many dimensions, got shapes "
                           f"{tuple(indices.shape)} and {tuple(x.shape)}")
    if not len(x.shape):
        return gather(x, 0, indices)
    xp = of(raw(x)).xp
    other, shape = list(x.shape), list(indices.shape)
    other[at] = shape[at] = 1
    try:
        common = list(xp.broadcast_shapes(tuple(other), tuple(shape)))
    except ValueError:
        raise RuntimeError(f"take_along_dim: shapes {tuple(indices.shape)} and {tuple(x.shape)} do not broadcast "
                           f"outside dim {dim}") from None
    return gather(expand(x, (*common[:at], x.shape[at], *common[at + 1:])), at,
                  expand(indices, (*common[:at], indices.shape[at], *common[at + 1:])))


def masked_select(x: Any, mask: Any) -> Any:
    """The elements of x where the boolean mask holds, as a vector; shapes broadcast.

    Raises:
        RuntimeError: the mask is not boolean.
    """
    if mask.dtype.kind != "b":
        raise RuntimeError(f"masked_select: the mask is boolean, got {mask.dtype}")
    x, mask = broadcast_tensors(x, mask)
    return getitem(x, mask)


def masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    """A copy of x (broadcast with mask) where the mask's n-th True holds the n-th element of `source`.

    Raises:
        RuntimeError: source has fewer elements than the mask has True.
    """
    x, mask = broadcast_tensors(x, mask)
    count = of(raw(mask)).xp.sum(raw(mask)).item()
    flat = flatten(source)
    if flat.shape[0] < count:
        raise RuntimeError(f"masked_scatter: the mask needs {count} elements, source has {flat.shape[0]}")
    return index_put(x, mask, getitem(flat, slice(count)))


def nonzero(x: Any, *, as_tuple: bool = False) -> Any:
    """The places of elements that are not zero: (number, dimensions) int64, or one vector a dimension."""
    array = raw(x)
    xp = of(array).xp
    if as_tuple:
        return tuple([plain(x, part) for part in xp.nonzero(array if array.ndim else array.reshape(1))])
    return plain(x, xp.argwhere(array))


def argwhere(x: Any) -> Any:
    """`nonzero` under numpy's name."""
    return nonzero(x)


def one_hot(x: Any, num_classes: int = -1) -> Any:
    """A new last dimension with 1 at the class that x names, else 0; int64.

    Args:
        num_classes: -1 takes the largest class plus one.

    Raises:
        RuntimeError: x is no integer tensor, a class is negative or not below num_classes.
    """
    array = integers("one_hot", x)
    xp = of(array).xp
    if not array.size and num_classes <= 0:
        raise RuntimeError("one_hot: give num_classes for an empty tensor")
    low, high = (xp.min(array).item(), xp.max(array).item()) if array.size else (0, -1)
    classes = high + 1 if num_classes == -1 else num_classes
    if low < 0 or high >= classes:
        raise RuntimeError(f"one_hot: classes from {low} to {high} do not fit {classes}")
    return plain(x, _hot(array, classes))


_hot = Kernels(lambda xp, x, classes: (x[..., None] == xp.arange(classes)).astype("int64"))
