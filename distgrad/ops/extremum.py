"""The largest, the smallest and the middle element, and where they are.

With a `dim`, values come with indices and the gradient goes to the element picked; amax and amin,
and max and min of everything, share it equally among equals. NaN counts as extreme, as in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .._typing import Dims
from ..backend import of
from ..graph.function import Function
from ._arguments import dims_of, number_of, one_dim, plain, raw
from ._kernels import Kernels
from .cast import cast
from .gather import Pick
from .pointwise import maximum, minimum
from .views import expand, reshape

__all__ = ["AMax", "AMin", "MaxResult", "MedianResult", "MinResult", "amax", "amin", "aminmax", "argmax", "argmin",
           "max", "median", "min"]

_Dims = tuple[int, ...] | None


class MaxResult(NamedTuple):
    """What max(dim=...) returns."""

    values: Any
    indices: Any


class MinResult(NamedTuple):
    """What min(dim=...) returns."""

    values: Any
    indices: Any


class MedianResult(NamedTuple):
    """What median(dim=...) returns."""

    values: Any
    indices: Any


class _Shared(Function):
    """A chosen element over dimensions; the gradient is shared among its equals (`nan`: NaN equals NaN)."""

    def forward(ctx: Any, x: Any, choose: Callable[..., Any], dims: _Dims, keepdim: bool, nan: bool) -> Any:
        ctx.dims, ctx.keepdim, ctx.nan = dims, keepdim, nan
        out = of(x).xp.asarray(choose(x, dims, keepdim))
        ctx.save(x, out)
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        if not ctx.keepdim:
            shape = tuple([1 if ctx.dims is None or i in ctx.dims else n for i, n in enumerate(x.shape)])
            g, y = reshape(g, shape), reshape(y, shape)
        x, y = raw(x), raw(y)
        equal = x == y
        if ctx.nan:
            equal = equal | ((x != x) & (y != y))
        count = equal.sum(axis=ctx.dims, keepdims=True).astype(g.dtype)
        return expand(g / count, tuple(x.shape)) * equal


class AMax(_Shared):
    """The largest element over dimensions."""

    name = "Amax"


class AMin(_Shared):
    """The smallest element over dimensions."""

    name = "Amin"


class _MaxOfAll(_Shared):
    """The largest element of a tensor."""

    name = "Max"
    overload = 1


class _MinOfAll(_Shared):
    """The smallest element of a tensor."""

    name = "Min"
    overload = 1


class _MedianOfAll(_Shared):
    """The middle element of a tensor."""

    name = "Median"


class _Max(Pick):
    """The largest element of a dimension, picked."""

    name = "Max"


class _Min(Pick):
    """The smallest element of a dimension, picked."""

    name = "Min"


class _Median(Pick):
    """The middle element of a dimension, picked."""

    name = "Median"


def _largest(x: Any, dims: _Dims, keepdim: bool) -> Any:
    return x.max(axis=dims, keepdims=keepdim)


def _smallest(x: Any, dims: _Dims, keepdim: bool) -> Any:
    return x.min(axis=dims, keepdims=keepdim)


def _not_empty(name: str, shape: Any, dims: _Dims, kind: type[Exception] = IndexError) -> None:
    """Refuse a reduction that has nothing to choose from."""
    if [n for i, n in enumerate(shape) if n == 0 and (dims is None or i in dims)]:
        over = "all dims" if dims is None else f"dims {dims}"
        raise kind(f"{name}: there is nothing to choose from over {over} of shape {tuple(shape)}")


def amax(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """The largest element over `dim`; equal ones share the gradient.

    Raises:
        IndexError: an empty dimension (RuntimeError when all are reduced).
    """
    dims = dims_of("amax", dim, len(x.shape))
    _not_empty("amax", x.shape, dims, RuntimeError if dim in (None, ()) else IndexError)
    return AMax.apply(x, choose=_largest, dims=dims, keepdim=keepdim, nan=False)


def amin(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """The smallest element over `dim`; equal ones share the gradient.

    Raises:
        IndexError: an empty dimension (RuntimeError when all are reduced).
    """
    dims = dims_of("amin", dim, len(x.shape))
    _not_empty("amin", x.shape, dims, RuntimeError if dim in (None, ()) else IndexError)
    return AMin.apply(x, choose=_smallest, dims=dims, keepdim=keepdim, nan=False)


def aminmax(x: Any, *, dim: int | None = None, keepdim: bool = False) -> tuple[Any, Any]:
    """(amin, amax)."""
    return amin(x, dim, keepdim), amax(x, dim, keepdim)


def _picked(function: type[Pick], result: Any, x: Any, dim: int, keepdim: bool, index: Any) -> Any:
    """(values, indices) for raw indices along `dim`, which has size one in them."""
    values = function.apply(x, index, dim=dim, keepdim=keepdim)
    return result(values, plain(x, index if keepdim else index.squeeze(dim)))


def _extreme(name: str, x: Any, dim: Any, keepdim: bool, largest: bool) -> Any:
    """max or min: over everything, over a dimension, or with another tensor."""
    if dim is None:
        _not_empty(name, x.shape, None, RuntimeError)
        kind, choose = (_MaxOfAll, _largest) if largest else (_MinOfAll, _smallest)
        return kind.apply(x, choose=choose, dims=None, keepdim=False, nan=True)
    if hasattr(dim, "dtype"):
        return (maximum if largest else minimum)(x, dim)
    shape = tuple(x.shape)
    at = one_dim(name, dim, len(shape))
    if not shape:
        x, keepdim = reshape(x, (1,)), False
    _not_empty(name, x.shape, (at,))
    index = _place_of(raw(x), largest, at, True)
    return _picked(_Max if largest else _Min, MaxResult if largest else MinResult, x, at, keepdim, index)


def max(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element of all; or with `dim` (values, indices) along it; or of two tensors.

    Raises:
        IndexError: an empty dimension (RuntimeError for an empty tensor without `dim`).
    """
    return _extreme("max", x, dim, keepdim, True)


def min(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element of all; or with `dim` (values, indices) along it; or of two tensors.

    Raises:
        IndexError: an empty dimension (RuntimeError for an empty tensor without `dim`).
    """
    return _extreme("min", x, dim, keepdim, False)


def _place(name: str, x: Any, dim: int | None, keepdim: bool, largest: bool) -> Any:
    array = raw(x)
    shape = tuple(x.shape)
    at = None if dim is None else one_dim(name, dim, len(shape))
    if at is not None and not shape:
        at = None
    _not_empty(name, shape, None if at is None else (at,))
    return plain(x, _place_of(array, largest, at, keepdim))


def _argument(xp: Any, x: Any, largest: bool, dim: int | None, keepdim: bool) -> Any:
    if x.dtype.kind == "b":
        x = x.astype("uint8")
    return (x.argmax if largest else x.argmin)(axis=dim, keepdims=keepdim)


_place_of = Kernels(_argument)


def argmax(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Where the largest element is: its index along `dim`, or in the flattened tensor; the first of equals."""
    return _place("argmax", x, dim, keepdim, True)


def argmin(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Where the smallest element is: its index along `dim`, or in the flattened tensor; the first of equals."""
    return _place("argmin", x, dim, keepdim, False)


def median(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element (the lower of two); with `dim`, (values, indices) along it. NaN if there is one.

    Raises:
        IndexError: an empty dimension.
    """
    shape = tuple(x.shape)
    if dim is None:
        if not number_of(shape):
            return cast(plain(x, of(raw(x)).xp.full((), float("nan"))), x.dtype)
        return _MedianOfAll.apply(x, choose=_middle, dims=None, keepdim=False, nan=True)
    at = one_dim("median", dim, len(shape))
    if not shape:
        x, keepdim = reshape(x, (1,)), False
    _not_empty("median", x.shape, (at,))
    return _picked(_Median, MedianResult, x, at, keepdim, _middle_place(raw(x), at))


def _middle_index(xp: Any, x: Any, dim: int) -> Any:
    """The index of the middle element along `dim` of a raw array, which has size one; of a NaN if there is one."""
    middle = (x.shape[dim] - 1) // 2
    index = xp.argsort(x, axis=dim, kind="stable")[(slice(None),) * dim + (slice(middle, middle + 1),)]
    missing = x != x
    return xp.where(missing.any(axis=dim, keepdims=True), missing.argmax(axis=dim, keepdims=True), index)


_middle_place = Kernels(_middle_index)

def _middle(x: Any, dims: _Dims, keepdim: bool) -> Any:
    flat = x.reshape(-1)
    return flat[_middle_place(flat, 0)].reshape(())
