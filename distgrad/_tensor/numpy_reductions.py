"""numpy's reductions, scans and sorting by operations, and the table that all of numpy's functions enter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend.dtypes import get_default_dtype
from ..graph.base import TensorBase
from ..ops import cumulative, reduce, shape
from ..ops import sort as order
from .creation import as_tensor
from .numpy_protocol import product

__all__ = ["FUNCTIONS", "as_numpys", "flattened", "tensor_of"]

FUNCTIONS: dict[Any, Callable[..., Any]] = {}


def as_numpys(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: this stands in for these functions of numpy's."""

    def enter(own: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            FUNCTIONS[function] = own
        return own

    return enter


def tensor_of(x: Any) -> Any:
    """An argument as a tensor."""
    return x if isinstance(x, TensorBase) else as_tensor(x)


def _floating(x: Any, dtype: Any) -> Any:
    """The dtype in which a mean is taken: numpy has means of integers."""
    return dtype or (None if x.dtype.kind in "fc" else get_default_dtype())


def flattened(x: Any, axis: Any) -> tuple[Any, int]:
    """numpy's axis=None: the flattened tensor along its only dimension."""
    x = tensor_of(x)
    return (shape.flatten(x), 0) if axis is None else (x, axis)


@as_numpys(np.sum)
def _sum(a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    return reduce.sum(tensor_of(a), axis, keepdims, dtype=dtype)


@as_numpys(np.nansum)
def _nansum(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return reduce.nansum(tensor_of(a), axis, keepdims)


@as_numpys(np.mean)
def _mean(a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    a = tensor_of(a)
    return reduce.mean(a, axis, keepdims, dtype=_floating(a, dtype))


@as_numpys(np.var)
def _var(a: Any, axis: Any = None, dtype: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    a = tensor_of(a)
    return reduce.var(a.to(_floating(a, dtype)), axis, correction=ddof, keepdim=keepdims)


@as_numpys(np.std)
def _std(a: Any, axis: Any = None, dtype: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    a = tensor_of(a)
    return reduce.std(a.to(_floating(a, dtype)), axis, correction=ddof, keepdim=keepdims)


@as_numpys(np.prod)
def _prod(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return product(tensor_of(a), axis, keepdims)


@as_numpys(np.max, np.amax)
def _max(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return reduce.amax(tensor_of(a), axis, keepdims)


@as_numpys(np.min, np.amin)
def _min(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return reduce.amin(tensor_of(a), axis, keepdims)


@as_numpys(np.ptp)
def _ptp(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _max(a, axis, keepdims) - _min(a, axis, keepdims)


for _function, _reduction in ((np.all, reduce.all), (np.any, reduce.any), (np.argmax, reduce.argmax),
                              (np.argmin, reduce.argmin)):
    FUNCTIONS[_function] = lambda a, axis=None, keepdims=False, _own=_reduction: _own(tensor_of(a), axis, keepdims)


@as_numpys(np.count_nonzero)
def _count_nonzero(a: Any, axis: Any = None) -> Any:
    return reduce.count_nonzero(tensor_of(a), axis)


@as_numpys(np.cumsum)
def _cumsum(a: Any, axis: Any = None) -> Any:
    return cumulative.cumsum(*flattened(a, axis))


@as_numpys(np.cumprod)
def _cumprod(a: Any, axis: Any = None) -> Any:
    return cumulative.cumprod(*flattened(a, axis))


@as_numpys(np.diff)
def _diff(a: Any, n: int = 1, axis: int = -1) -> Any:
    a = tensor_of(a)
    for _ in range(n):
        count = a.shape[axis] - 1
        a = shape.narrow(a, axis, 1, count) - shape.narrow(a, axis, 0, count)
    return a


@as_numpys(np.sort)
def _sort(a: Any, axis: Any = -1, kind: Any = None, *, stable: Any = None) -> Any:
    return order.sort(*flattened(a, axis), stable=True).values


@as_numpys(np.argsort)
def _argsort(a: Any, axis: Any = -1, kind: Any = None, *, stable: Any = None) -> Any:
    return order.argsort(*flattened(a, axis), stable=True)
