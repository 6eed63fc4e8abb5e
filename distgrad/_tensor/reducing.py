"""Reductions, scans, sorting and matrix products as methods, one line each."""

from __future__ import annotations

from typing import Any

from .._typing import Dims
from ..ops import cumulative, linalg, reduce, sort

__all__ = ["Reducing"]


class Reducing:
    """Methods that combine elements."""

    __slots__ = ()

    # reductions

    def sum(self, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        return reduce.sum(self, dim, keepdim, dtype=dtype)

    def nansum(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reduce.nansum(self, dim, keepdim)

    def mean(self, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        return reduce.mean(self, dim, keepdim, dtype=dtype)

    def prod(self, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        return reduce.prod(self, dim, keepdim, dtype=dtype)

    def var(self, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> Any:
        return reduce.var(self, dim, correction=correction, keepdim=keepdim)

    def std(self, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> Any:
        return reduce.std(self, dim, correction=correction, keepdim=keepdim)

    def max(self, dim: Any = None, keepdim: bool = False) -> Any:
        return reduce.max(self, dim, keepdim)

    def min(self, dim: Any = None, keepdim: bool = False) -> Any:
        return reduce.min(self, dim, keepdim)

    def amax(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reduce.amax(self, dim, keepdim)

    def amin(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reduce.amin(self, dim, keepdim)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Any:
        return reduce.argmax(self, dim, keepdim)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Any:
        return reduce.argmin(self, dim, keepdim)

    def all(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reduce.all(self, dim, keepdim)

    def any(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reduce.any(self, dim, keepdim)

    def logsumexp(self, dim: Dims, keepdim: bool = False) -> Any:
        return reduce.logsumexp(self, dim, keepdim)

    def norm(self, p: Any = 2, dim: Dims = None, keepdim: bool = False) -> Any:
        return reduce.norm(self, p, dim, keepdim)

    def count_nonzero(self, dim: Dims = None) -> Any:
        return reduce.count_nonzero(self, dim)

    def median(self, dim: int | None = None, keepdim: bool = False) -> Any:
        return reduce.median(self, dim, keepdim)

    # scans and order

    def cumsum(self, dim: int) -> Any:
        return cumulative.cumsum(self, dim)

    def cumprod(self, dim: int) -> Any:
        return cumulative.cumprod(self, dim)

    def sort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
        return sort.sort(self, dim, descending, stable)

    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
        return sort.argsort(self, dim, descending, stable)

    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
        return sort.topk(self, k, dim, largest, sorted)

    # products

    def matmul(self, other: Any) -> Any:
        return linalg.matmul(self, other)

    def mm(self, mat2: Any) -> Any:
        return linalg.mm(self, mat2)

    def bmm(self, mat2: Any) -> Any:
        return linalg.bmm(self, mat2)

    def mv(self, vec: Any) -> Any:
        return linalg.mv(self, vec)

    def dot(self, other: Any) -> Any:
        return linalg.dot(self, other)

    def outer(self, vec2: Any) -> Any:
        return linalg.outer(self, vec2)

    def trace(self) -> Any:
        return linalg.trace(self)

    def det(self) -> Any:
        return linalg.det(self)

    def inverse(self) -> Any:
        return linalg.inv(self)

    def addmm(self, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        return linalg.addmm(self, a, b, beta=beta, alpha=alpha)
