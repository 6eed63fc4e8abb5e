"""Order: sort, argsort, topk, kthvalue, unique. Indices carry no gradient; values pass it to where they came from.

NaN counts as larger than every number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import of
from ._arguments import one_dim, plain, raw
from ._kernels import Kernels
from .gather import Pick
from .views import reshape

__all__ = ["Sort", "SortResult", "TopK", "TopKResult", "argsort", "kthvalue", "msort", "sort", "topk", "unique",
           "unique_consecutive"]


class SortResult(NamedTuple):
    """What sort and kthvalue return."""

    values: Any
    indices: Any


class TopKResult(NamedTuple):
    """What topk returns."""

    values: Any
    indices: Any


class Sort(Pick):
    """Elements in order."""


class TopK(Pick):
    """The largest or smallest elements."""

    name = "Topk"


def _sorting(xp: Any, x: Any, dim: int, descending: bool) -> Any:
    """Raw indices that sort a raw array; equal elements keep their order, also descending."""
    if not descending:
        return xp.argsort(x, axis=dim, kind="stable")
    return x.shape[dim] - 1 - xp.flip(xp.argsort(xp.flip(x, dim), axis=dim, kind="stable"), dim)


_order = Kernels(_sorting)


def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> SortResult:
    """(values, indices) in order along `dim`. Always stable: equal elements keep their order."""
    at = one_dim("sort", dim, len(x.shape))
    flat = x if len(x.shape) else reshape(x, (1,))
    index = _order(raw(flat), at, descending)
    values = Sort.apply(flat, index, dim=at, keepdim=True)
    return SortResult(reshape(values, tuple(x.shape)), plain(x, index.reshape(x.shape)))


def argsort(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Indices that sort x along `dim`. Always stable."""
    at = one_dim("argsort", dim, len(x.shape))
    array = raw(x)
    return plain(x, _order(array.reshape(array.shape or (1,)), at, descending).reshape(array.shape))


def msort(x: Any) -> Any:
    """The values of `sort` along the first dimension."""
    return sort(x, 0).values


def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> TopKResult:
    """(values, indices) of the k largest (or smallest) elements along `dim`, the most extreme first.

    Raises:
        RuntimeError: k is negative or exceeds the dimension.
    """
    at = one_dim("topk", dim, len(x.shape))
    flat = x if len(x.shape) else reshape(x, (1,))
    if not 0 <= k <= flat.shape[at]:
        raise RuntimeError(f"topk: k = {k} does not fit dim {dim} of shape {tuple(x.shape)}")
    index = _order(raw(flat), at, largest)[(slice(None),) * at + (slice(k),)]
    values = TopK.apply(flat, index, dim=at, keepdim=True)
    if not len(x.shape) and k == 1:
        return TopKResult(reshape(values, ()), plain(x, index.reshape(())))
    return TopKResult(values, plain(x, index))


def kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> SortResult:
    """(values, indices) of the k-th smallest element along `dim`, counted from 1.

    Raises:
        RuntimeError: k is not between 1 and the dimension's size.
    """
    at = one_dim("kthvalue", dim, len(x.shape))
    flat = x if len(x.shape) else reshape(x, (1,))
    if not 1 <= k <= flat.shape[at]:
        raise RuntimeError(f"kthvalue: k = {k} does not fit dim {dim} of shape {tuple(x.shape)}")
    index = _order(raw(flat), at, False)[(slice(None),) * at + (slice(k - 1, k),)]
    keep = keepdim and bool(len(x.shape))
    return SortResult(Sort.apply(flat, index, dim=at, keepdim=keep), plain(x, index if keep else index.squeeze(at)))


def unique(x: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
           dim: int | None = None) -> Any:
    """The different elements in rising order (parts along `dim`), without gradient.

    Returns:
        The elements; with the flags a tuple that adds, for each element of x, where it is found
        among them, and how often each occurs.
    """
    array = raw(x)
    at = None if dim is None else one_dim("unique", dim, len(x.shape))
    values, inverse, counts = of(array).xp.unique(array, return_inverse=True, return_counts=True, axis=at,
                                                  equal_nan=False)
    inverse = inverse.reshape(array.shape if at is None else (array.shape[at],))
    return _chosen(x, values, inverse, counts, return_inverse, return_counts)


def unique_consecutive(x: Any, return_inverse: bool = False, return_counts: bool = False,
                       dim: int | None = None) -> Any:
    """Elements (parts along `dim`) that differ from the one before them, without gradient; returns as `unique`."""
    at = 0 if dim is None else one_dim("unique_consecutive", dim, len(x.shape))
    return _chosen(x, *_runs(raw(x), at, dim is None), return_inverse, return_counts)


def _runs_of(xp: Any, array: Any, at: int, flat: bool) -> tuple[Any, Any, Any]:
    """Values that differ from those before them, for each element which of them it is, and how long the runs are."""
    parts = array.reshape(-1) if flat else array
    size = parts.shape[at]
    rows = xp.moveaxis(parts, at, 0).reshape(size, -1) if size else xp.zeros((0, 1))
    new = xp.ones(size, dtype="bool")
    new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    starts = xp.flatnonzero(new)
    counts = xp.diff(xp.append(starts, size))
    inverse = xp.cumsum(new) - 1
    return xp.take(parts, starts, axis=at), inverse.reshape(array.shape) if flat else inverse, counts


_runs = Kernels(_runs_of)


def _chosen(x: Any, values: Any, inverse: Any, counts: Any, with_inverse: bool, with_counts: bool) -> Any:
    found = [values] + [inverse] * with_inverse + [counts] * with_counts
    made = tuple([plain(x, part) for part in found])
    return made if len(made) > 1 else made[0]
