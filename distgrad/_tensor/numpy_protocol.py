"""numpy's functions on tensors: `np.exp(t)`, `np.sum(t, axis=0)` build the graph as distgrad's own do.

Ufuncs are looked up here, other functions in `numpy_functions`. What neither knows sees the plain numpy
array, as `np.asarray(t)` gives it, so it is refused for a tensor that requires grad.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph.base import TensorBase
from ..ops import cumulative, linalg, parts, reduce, shape
from ..ops import pointwise as P

__all__ = ["NumpyProtocol", "product"]

_OPERANDS = (TensorBase, np.ndarray, np.generic, bool, int, float, complex, list, tuple)

UFUNCS: dict[np.ufunc, Callable[..., Any]] = {
    np.absolute: P.abs, np.add: P.add, np.arccos: P.acos, np.arccosh: P.acosh, np.arcsin: P.asin,
    np.arcsinh: P.asinh, np.arctan: P.atan, np.arctan2: P.atan2, np.arctanh: P.atanh, np.bitwise_and: P.bitwise_and,
    np.bitwise_or: P.bitwise_or, np.bitwise_xor: P.bitwise_xor, np.ceil: P.ceil, np.conjugate: parts.conj,
    np.copysign: P.copysign, np.cos: P.cos, np.cosh: P.cosh, np.deg2rad: lambda x: P.mul(x, math.pi / 180),
    np.degrees: lambda x: P.mul(x, 180 / math.pi), np.divide: P.div, np.equal: P.eq, np.exp: P.exp, np.exp2: P.exp2,
    np.expm1: P.expm1, np.fabs: P.abs, np.float_power: P.pow, np.floor: P.floor, np.floor_divide: P.floor_divide,
    np.fmod: P.fmod, np.greater: P.gt, np.greater_equal: P.ge, np.hypot: P.hypot, np.invert: P.bitwise_not,
    np.isfinite: P.isfinite, np.isinf: P.isinf, np.isnan: P.isnan, np.less: P.lt, np.less_equal: P.le,
    np.log: P.log, np.log10: P.log10, np.log1p: P.log1p, np.log2: P.log2, np.logaddexp: P.logaddexp,
    np.logical_and: P.logical_and, np.logical_not: P.logical_not, np.logical_or: P.logical_or,
    np.logical_xor: P.logical_xor, np.matmul: linalg.matmul, np.maximum: P.maximum, np.minimum: P.minimum,
    np.multiply: P.mul, np.negative: P.neg, np.not_equal: P.ne, np.positive: shape.clone, np.power: P.pow,
    np.rad2deg: lambda x: P.mul(x, 180 / math.pi), np.radians: lambda x: P.mul(x, math.pi / 180),
    np.reciprocal: P.reciprocal, np.remainder: P.remainder, np.rint: P.round, np.sign: P.sign, np.sin: P.sin,
    np.sinh: P.sinh, np.sqrt: P.sqrt, np.square: P.square, np.subtract: P.sub, np.tan: P.tan, np.tanh: P.tanh,
    np.trunc: P.trunc,
}

REDUCTIONS: dict[np.ufunc, Callable[..., Any]] = {
    np.add: reduce.sum, np.logical_and: reduce.all, np.logical_or: reduce.any, np.maximum: reduce.amax,
    np.minimum: reduce.amin, np.multiply: lambda x, axis, keepdims: product(x, axis, keepdims),
}

SCANS: dict[np.ufunc, Callable[..., Any]] = {np.add: cumulative.cumsum, np.multiply: cumulative.cumprod}


def product(x: Any, axis: Any, keepdims: bool) -> Any:
    """The product over one, several or all dimensions."""
    if not isinstance(axis, (tuple, list)):
        if axis is None and keepdims:
            return reduce.prod(x).reshape((1,) * x.ndim)
        return reduce.prod(x, axis, keepdims)
    for dim in sorted((dim % x.ndim for dim in axis), reverse=True):
        x = reduce.prod(x, dim, keepdims)
    return x


class NumpyProtocol:
    """How numpy finds the operations of a tensor."""

    __slots__ = ()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        for x in inputs:
            if not isinstance(x, _OPERANDS):
                return NotImplemented
        if method == "__call__" and not kwargs:  # as an operator with an array on the left comes here
            operation = UFUNCS.get(ufunc)
            if operation is not None:
                return operation(*[_operand(x) if isinstance(x, (list, tuple)) else x for x in inputs])
        kwargs = _given(kwargs)
        found = _method(ufunc, method, inputs, kwargs)
        if found is not None:
            return found
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return _on_arrays(name, getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        from .numpy_functions import FUNCTIONS, WITHOUT_GRADIENT  # after tensors exist: it makes some

        if not all(issubclass(kind, (TensorBase, np.ndarray)) for kind in types):
            return NotImplemented
        kwargs = _given(kwargs)
        if func in WITHOUT_GRADIENT:
            return func(*_detached(args), **_detached(kwargs))
        own = FUNCTIONS.get(func)
        if own is not None and "out" not in kwargs:
            return own(*args, **kwargs)
        module = func.__module__.removeprefix("numpy").removeprefix(".")
        return _on_arrays(f"{module}.{func.__name__}" if module else func.__name__, func, args, kwargs)


def _given(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that say something."""
    return {key: value for key, value in kwargs.items()
            if value is not np._NoValue and not (key == "out" and value is None)}


def _method(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A ufunc's reduce, accumulate or outer by an operation; None where there is none."""
    operation = UFUNCS.get(ufunc)
    if method == "outer" and operation is not None and ufunc.nin == 2 and not kwargs:
        a, b = (_operand(x) for x in inputs)
        return operation(a.reshape((*np.shape(a), *(1,) * np.ndim(b))) if np.ndim(b) else a, b)
    if method == "reduce" and ufunc in REDUCTIONS and set(kwargs) <= {"axis", "keepdims"}:
        return REDUCTIONS[ufunc](_operand(inputs[0]), kwargs.get("axis", 0), kwargs.get("keepdims", False))
    if method == "accumulate" and ufunc in SCANS and set(kwargs) <= {"axis"}:
        return SCANS[ufunc](_operand(inputs[0]), kwargs.get("axis", 0))
    return None


def _operand(x: Any) -> Any:
    """Nested lists as a tensor; anything else as it is."""
    from .creation import as_tensor

    return as_tensor(x) if isinstance(x, (list, tuple)) else x


def _on_arrays(name: str, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """What has no operation, on plain arrays.

    Raises:
        TypeError: a tensor requires grad, or is to be written into.
    """
    out = kwargs.get("out")
    if any(isinstance(t, TensorBase) for t in (out if isinstance(out, tuple) else (out,))):
        raise TypeError(f"np.{name}: out= cannot be a tensor, whose graph would not know of it; assign the result")
    if any(t.requires_grad for t in _tensors((args, kwargs))):
        why = "out= is an array, which carries no gradient" if out is not None else \
            "with these arguments it is no operation that the graph records"
        raise TypeError(f"np.{name} on a tensor that requires grad: {why}. Use an operation of distgrad's, or "
                        "t.detach().numpy() to leave the graph")
    return function(*_arrays(args), **_arrays(kwargs))


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, TensorBase):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Nested lists, tuples and dictionaries with each tensor replaced."""
    if isinstance(value, TensorBase):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    return type(value)([_mapped(item, function) for item in value]) if type(value) in (list, tuple) else value


def _arrays(value: Any) -> Any:
    return _mapped(value, lambda t: t.numpy())


def _detached(value: Any) -> Any:
    return _mapped(value, lambda t: t.detach().cpu().numpy())
