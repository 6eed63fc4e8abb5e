"""The same elements in another shape or order of dimensions: views where memory allows it.

A rule returns the cotangent in the old shape; the engine sums what `expand` had stretched.
"""

from __future__ import annotations

from typing import Any

from .._typing import Dims, Shape
from ..backend import of
from ..graph.function import Function
from ._arguments import number_of, one_dim, raw, size_tuple, take_dims
from .indexing import getitem

__all__ = [
    "Clone", "Contiguous", "Expand", "Permute", "Reshape", "Squeeze", "T", "Transpose", "Unsqueeze", "View",
    "broadcast_tensors", "broadcast_to", "clone", "contiguous", "expand", "expand_as", "flatten", "mT", "moveaxis",
    "movedim", "narrow", "permute", "reshape", "select", "squeeze", "swapaxes", "swapdims", "t", "transpose",
    "unflatten", "unsqueeze", "view", "view_as",
]


class Reshape(Function):
    """Another shape; a view unless the strides forbid it."""

    name = "View"
    view = True

    def forward(ctx: Any, x: Any, size: Shape) -> Any:
        ctx.inside = x.shape
        return x.reshape(size)

    def vjp(ctx: Any, g: Any) -> Any:
        return reshape(g, ctx.inside)


class View(Reshape):
    """Another shape, never a copy."""


class Squeeze(Reshape):
    """Without some dimensions of size one."""


class Unsqueeze(Reshape):
    """With one more dimension of size one."""


class Permute(Function):
    """Dimensions in another order: a view."""

    view = True

    def forward(ctx: Any, x: Any, dims: tuple[int, ...]) -> Any:
        ctx.dims = dims
        return x.transpose(dims)

    def vjp(ctx: Any, g: Any) -> Any:
        inverse = [0] * len(ctx.dims)
        for place, dim in enumerate(ctx.dims):
            inverse[dim] = place
        return Permute.apply(g, dims=tuple(inverse))


class Transpose(Function):
    """Two dimensions exchanged: a view."""

    view = True

    def forward(ctx: Any, x: Any, dim0: int, dim1: int) -> Any:
        ctx.dims = (dim0, dim1)
        return x.swapaxes(dim0, dim1)

    def vjp(ctx: Any, g: Any) -> Any:
        return Transpose.apply(g, dim0=ctx.dims[0], dim1=ctx.dims[1])


class T(Transpose):
    """A matrix with rows and columns exchanged."""


class Expand(Function):
    """Dimensions of size one stretched, without memory for it."""

    view = True

    def forward(ctx: Any, x: Any, size: Shape) -> Any:
        return of(x).xp.broadcast_to(x, size)

    def vjp(ctx: Any, g: Any) -> Any:
        return g  # the engine sums it to the input's shape


class Clone(Function):
    """A copy in memory of its own."""

    def forward(ctx: Any, x: Any) -> Any:
        return x.copy(order="K") if x.__class__ is of(x).array_type else x

    def vjp(ctx: Any, g: Any) -> Any:
        return g


class Contiguous(Clone):
    """A copy whose elements lie in row-major order."""

    def forward(ctx: Any, x: Any) -> Any:
        return x.copy(order="C")


def clone(x: Any) -> Any:
    """A copy with its own memory, in the graph: gradients pass to x."""
    return Clone.apply(x)


def contiguous(x: Any) -> Any:
    """x itself where its elements lie in row-major order, else a copy in which they do."""
    return x if raw(x).flags.c_contiguous else Contiguous.apply(x)


def _checked_size(name: str, x: Any, size: Any) -> Shape:
    """The size to reshape to, with -1 resolved."""
    wanted = size_tuple(name, size)
    have = number_of(x.shape)
    unknown = [i for i, n in enumerate(wanted) if n < 0]
    known = number_of([n for n in wanted if n >= 0])
    if not unknown and known == have:
        return wanted
    if len(unknown) == 1 and wanted[unknown[0]] == -1 and known and have % known == 0:
        return wanted[:unknown[0]] + (have // known,) + wanted[unknown[0] + 1:]
    raise RuntimeError(f"{name}: shape {tuple(x.shape)} with {have} elements cannot become {wanted}")


def reshape(x: Any, shape: Any) -> Any:
    """x in another shape (one size may be -1); a view where possible, else a copy.

    Raises:
        RuntimeError: the number of elements differs.
    """
    if x.shape == shape and x.__class__ is of(raw(x)).array_type:
        return x
    return Reshape.apply(x, size=_checked_size("reshape", x, shape))


def view(x: Any, shape: Any) -> Any:
    """x in another shape, sharing its memory.

    Raises:
        RuntimeError: the number of elements differs, or the strides would force a copy.
    """
    size = _checked_size("view", x, shape)
    array = raw(x)
    xp = of(array).xp
    out = View.apply(x, size=size)
    if array.size and not array.flags.c_contiguous and not xp.may_share_memory(raw(out), array):
        raise RuntimeError(f"view: shape {tuple(x.shape)} with strides {array.strides} (bytes) cannot be seen as "
                           f"{size} without a copy; use reshape()")
    return out


def view_as(x: Any, other: Any) -> Any:
    """x viewed in the shape of `other`."""
    return view(x, tuple(other.shape))


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions start_dim to end_dim (inclusive) as one; a 0-d tensor becomes 1-d.

    Raises:
        RuntimeError: end_dim lies before start_dim.
    """
    shape = tuple(x.shape)
    start, end = one_dim("flatten", start_dim, len(shape)), one_dim("flatten", end_dim, len(shape))
    if end < start:
        raise RuntimeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in shape {shape}")
    if not shape:
        return Reshape.apply(x, size=(1,))
    if start == end:
        return x
    return Reshape.apply(x, size=(*shape[:start], number_of(shape[start:end + 1]), *shape[end + 1:]))


def unflatten(x: Any, dim: int, sizes: Any) -> Any:
    """Dimension `dim` as several of these sizes (one may be -1).

    Raises:
        RuntimeError: the sizes do not multiply to the dimension's.
    """
    shape = tuple(x.shape)
    at = one_dim("unflatten", dim, len(shape))
    sizes = size_tuple("unflatten", sizes)
    known = number_of([n for n in sizes if n != -1])
    if sizes.count(-1) == 1 and known and shape[at] % known == 0:
        sizes = tuple([shape[at] // known if n == -1 else n for n in sizes])
    if not sizes or min(sizes) < 0 or number_of(sizes) != shape[at]:
        raise RuntimeError(f"unflatten: dim {dim} of shape {shape} cannot be split into {sizes}")
    return View.apply(x, size=(*shape[:at], *sizes, *shape[at + 1:]))


def squeeze(x: Any, dim: Dims = None) -> Any:
    """Without dimensions of size one: all of them, or those among `dim` that have it."""
    shape = tuple(x.shape)
    dims = range(len(shape)) if dim is None else take_dims("squeeze", dim, len(shape))
    return Squeeze.apply(x, size=tuple([n for i, n in enumerate(shape) if n != 1 or i not in dims]))


def unsqueeze(x: Any, dim: int) -> Any:
    """A new dimension of size one before `dim`."""
    shape = tuple(x.shape)
    at = one_dim("unsqueeze", dim, len(shape) + 1)
    return Unsqueeze.apply(x, size=(*shape[:at], 1, *shape[at:]))


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """Dimensions dim0 and dim1 exchanged: a view."""
    ndim = len(x.shape)
    first, second = one_dim("transpose", dim0, ndim), one_dim("transpose", dim1, ndim)
    return Transpose.apply(x, dim0=first, dim1=second) if ndim else View.apply(x, size=())


def swapaxes(x: Any, axis0: int, axis1: int) -> Any:
    """`transpose` under numpy's name."""
    return transpose(x, axis0, axis1)


def swapdims(x: Any, dim0: int, dim1: int) -> Any:
    """`transpose` under its other name."""
    return transpose(x, dim0, dim1)


def permute(x: Any, dims: Any) -> Any:
    """Dimensions in the order `dims`: a view.

    Raises:
        RuntimeError: `dims` does not name every dimension once.
    """
    wanted = take_dims("permute", tuple(dims), len(x.shape))
    if len(wanted) != len(x.shape):
        raise RuntimeError(f"permute: {len(wanted)} dims {tuple(dims)} for shape {tuple(x.shape)}")
    return Permute.apply(x, dims=wanted)


def movedim(x: Any, source: Dims, destination: Dims) -> Any:
    """Dimensions `source` moved to the places `destination`; the others keep their order.

    Raises:
        RuntimeError: different numbers of sources and destinations.
    """
    ndim = len(x.shape)
    sources, targets = take_dims("movedim", source, ndim), take_dims("movedim", destination, ndim)
    if len(sources) != len(targets):
        raise RuntimeError(f"movedim: {len(sources)} sources for {len(targets)} destinations")
    if not ndim:
        return View.apply(x, size=())
    order = [d for d in range(ndim) if d not in sources]
    for place, dim in sorted(zip(targets, sources, strict=True)):
        order.insert(place, dim)
    return Permute.apply(x, dims=tuple(order))


def moveaxis(x: Any, source: Dims, destination: Dims) -> Any:
    """`movedim` under numpy's name."""
    return movedim(x, source, destination)


def t(x: Any) -> Any:
    """A matrix transposed; vectors and 0-d tensors as they are.

    Raises:
        RuntimeError: more than two dimensions.
    """
    ndim = len(x.shape)
    if ndim > 2:
        raise RuntimeError(f"t: takes at most 2 dimensions, got shape {tuple(x.shape)}; use mT or transpose()")
    return T.apply(x, dim0=0, dim1=1) if ndim == 2 else View.apply(x, size=tuple(x.shape))


def mT(x: Any) -> Any:
    """The last two dimensions exchanged.

    Raises:
        RuntimeError: fewer than two dimensions.
    """
    if len(x.shape) < 2:
        raise RuntimeError(f"mT: needs at least 2 dimensions, got shape {tuple(x.shape)}")
    return Transpose.apply(x, dim0=len(x.shape) - 2, dim1=len(x.shape) - 1)


def expand(x: Any, size: Any) -> Any:
    """Dimensions of size one stretched to `size` (-1 keeps a size), new ones in front; no memory is used.

    Raises:
        RuntimeError: a dimension that is not of size one would have to change.
    """
    wanted = size_tuple("expand", size)
    shape = tuple(x.shape)
    extra = len(wanted) - len(shape)
    if extra >= 0:
        full = tuple([shape[i - extra] if n == -1 and i >= extra else n for i, n in enumerate(wanted)])
        if min(full, default=0) >= 0 and all(have in (n, 1) for have, n in zip(shape, full[extra:], strict=True)):
            return Expand.apply(x, size=full)
    raise RuntimeError(f"expand: shape {shape} cannot be expanded to {wanted}")


def expand_as(x: Any, other: Any) -> Any:
    """x expanded to the shape of `other`."""
    return expand(x, tuple(other.shape))


def broadcast_to(x: Any, size: Any) -> Any:
    """`expand` under numpy's name."""
    return expand(x, size)


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """All tensors expanded to the one shape to which they broadcast.

    Raises:
        RuntimeError: their shapes do not broadcast.
    """
    xp = of(raw(tensors[0])).xp
    try:
        size = xp.broadcast_shapes(*[tuple(t.shape) for t in tensors])
    except ValueError:
        raise RuntimeError(f"shapes {[tuple(t.shape) for t in tensors]} do not broadcast together") from None
    return tuple([expand(t, size) for t in tensors])


def narrow(x: Any, dim: int, start: Any, length: int) -> Any:
    """`length` elements of dimension `dim` from `start` on: a view.

    Raises:
        IndexError: start is out of range.
        RuntimeError: fewer than `length` elements are left.
    """
    shape = tuple(x.shape)
    if not shape:
        raise RuntimeError("narrow: a 0-d tensor has no dimension")
    at = one_dim("narrow", dim, len(shape))
    first = int(raw(start))
    if not -shape[at] <= first <= shape[at]:
        raise IndexError(f"narrow: start {first} is outside dim {dim} of shape {shape}")
    first += shape[at] if first < 0 else 0
    if length < 0 or first + length > shape[at]:
        raise RuntimeError(f"narrow: {length} elements from {first} do not fit dim {dim} of shape {shape}")
    return getitem(x, (slice(None),) * at + (slice(first, first + length),))


def select(x: Any, dim: int, index: int) -> Any:
    """The part at `index` of dimension `dim`, which disappears: a view.

    Raises:
        IndexError: out of range, or a 0-d tensor.
    """
    shape = tuple(x.shape)
    at = one_dim("select", dim, len(shape))
    if not shape or not -shape[at] <= index < shape[at]:
        raise IndexError(f"select: index {index} is outside dim {dim} of shape {shape}")
    return getitem(x, (slice(None),) * at + (int(index),))
