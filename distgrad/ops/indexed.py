"""Parts of one dimension by a list of indices: index_select and its kin, take, and the embedding table.

Reading and adding are each other's gradients, so all orders of derivatives exist.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.function import Function
from ._arguments import one_dim, raw
from .gather import check_range, integers
from .indexing import index_put
from .select import where
from .views import flatten, reshape, unsqueeze

__all__ = ["Embedding", "IndexAdd", "IndexSelect", "embedding", "index_add", "index_copy", "index_fill",
           "index_select", "take"]

_ALL = slice(None)


class IndexSelect(Function):
    """The parts of a dimension that `index` names; `index` may have several dimensions."""

    def forward(ctx: Any, x: Any, index: Any, dim: int) -> Any:
        ctx.dim, ctx.inside = dim, x.shape
        ctx.save(index)
        return of(x).xp.take(x, index, axis=dim)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        return _IndexSum.apply(g, index, dim=ctx.dim, size=ctx.inside), None


class Embedding(Function):
    """Rows of a table; the row `padding` gets no gradient."""

    def forward(ctx: Any, weight: Any, index: Any, padding: int | None) -> Any:
        ctx.padding, ctx.inside = padding, weight.shape
        ctx.save(index)
        return of(weight).xp.take(weight, index, axis=0)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        if ctx.padding is not None:
            g = where(unsqueeze(index == ctx.padding, -1), 0, g)
        return _IndexSum.apply(g, index, dim=0, size=ctx.inside), None


class _IndexSum(Function):
    """Zeros with parts of x added at the places that `index` names: IndexSelect's gradient."""

    name = "IndexAdd"

    def forward(ctx: Any, x: Any, index: Any, dim: int, size: tuple[int, ...]) -> Any:
        ctx.dim = dim
        ctx.save(index)
        backend = of(x)
        parts = x.reshape(size[:dim] + (index.size,) + size[dim + 1:])
        return backend.kernels.index_add(backend.xp.zeros(size, x.dtype), dim, index.reshape(-1), parts)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        return IndexSelect.apply(g, index, dim=ctx.dim), None


class IndexAdd(Function):
    """A copy of x with parts of `source` added at the places that `index` names along `dim`."""

    def forward(ctx: Any, x: Any, source: Any, index: Any, dim: int) -> Any:
        ctx.dim = dim
        ctx.save(index)
        return of(x).kernels.index_add(x.copy(), dim, index, source)

    def vjp(ctx: Any, g: Any) -> Any:
        (index,) = ctx.saved
        return g, IndexSelect.apply(g, index, dim=ctx.dim) if ctx.needs(1) else None, None


def _vector(name: str, x: Any, dim: int, index: Any) -> tuple[Any, Any, int]:
    """(x, index, dim) for an index of at most one dimension whose values are in range."""
    array = integers(name, index, IndexError)
    if array.ndim > 1:
        raise IndexError(f"{name}: the index has at most one dimension, got shape {tuple(array.shape)}")
    at = one_dim(name, dim, len(x.shape))
    if not len(x.shape):
        x = reshape(x, (1,))
    check_range(name, array, x.shape[at])
    return x, index if array.ndim else reshape(index, (1,)), at


def index_select(x: Any, dim: int, index: Any) -> Any:
    """The parts of dimension `dim` that the 1-d `index` names, in its order.

    Raises:
        IndexError: an index out of range or with several dimensions.
    """
    shape = tuple(x.shape)
    x, index, at = _vector("index_select", x, dim, index)
    out = IndexSelect.apply(x, index, dim=at)
    return out if shape else reshape(out, ())


def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    """A copy of x with alpha * source[..., i, ...] added at index[i] of dimension `dim`.

    Raises:
        RuntimeError: source does not fit.
        IndexError: an index out of range or with several dimensions.
    """
    shape = tuple(x.shape)
    x, index, at = _vector("index_add", x, dim, index)
    source = _parts("index_add", x, at, index, source)
    return reshape(IndexAdd.apply(x, source if alpha == 1 else source * alpha, index, dim=at), shape)


def _parts(name: str, x: Any, dim: int, index: Any, source: Any) -> Any:
    """Source as one part for each index."""
    wanted = tuple(x.shape[:dim]) + tuple(raw(index).shape) + tuple(x.shape[dim + 1:])
    if source.dtype != x.dtype:
        raise RuntimeError(f"{name}: source has dtype {source.dtype}, the tensor {x.dtype}; cast one with .to()")
    if not len(source.shape):
        source = reshape(source, (1,))
    if tuple(source.shape) != wanted:
        raise RuntimeError(f"{name}: source has shape {tuple(source.shape)}, and {wanted} is needed for "
                           f"{raw(index).size} indices along dim {dim} of shape {tuple(x.shape)}")
    return source


def index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    """A copy of x with source[..., i, ...] at index[i] of dimension `dim`.

    Raises:
        RuntimeError: source does not fit.
        IndexError: an index out of range or with several dimensions.
    """
    shape = tuple(x.shape)
    x, index, at = _vector("index_copy", x, dim, index)
    source = _parts("index_copy", x, at, index, source)
    return reshape(index_put(x, (_ALL,) * at + (index,), source), shape)


def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    """A copy of x with `value` (a number or 0-d tensor) in the parts of `dim` that the index names.

    Raises:
        IndexError: an index out of range or with several dimensions.
        RuntimeError: `value` has dimensions.
    """
    if hasattr(value, "dtype") and len(value.shape):
        raise RuntimeError(f"index_fill: the value is a number or 0-d tensor, got shape {tuple(value.shape)}")
    shape = tuple(x.shape)
    x, index, at = _vector("index_fill", x, dim, index)
    return reshape(index_put(x, (_ALL,) * at + (index,), value), shape)


def take(x: Any, index: Any) -> Any:
    """Elements of the flattened x, in the shape of `index`; negative ones count from the end.

    Raises:
        IndexError: an index out of range.
    """
    array = integers("take", index)
    flat = flatten(x)
    check_range("take", array, flat.shape[0], -flat.shape[0])
    return IndexSelect.apply(flat, index, dim=0)


def embedding(weight: Any, indices: Any, padding_idx: int | None = None) -> Any:
    """Rows of a table: weight[indices], of shape (*indices.shape, row).

    Args:
        weight: (rows, row).
        padding_idx: the row that gets no gradient; may count from the end.

    Raises:
        RuntimeError: indices that are no integers; IndexError: one is out of range.
        RuntimeError: padding_idx is out of range.
    """
    array = integers("embedding", indices)
    rows = weight.shape[0]
    check_range("embedding", array, rows)
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise RuntimeError(f"embedding: padding_idx {padding_idx} is outside a table of {rows} rows")
        padding_idx %= rows
    return Embedding.apply(weight, indices, padding=padding_idx)
