"""numpy's functions (those that are no ufuncs) by operations, with numpy's names, arguments and defaults.

Each takes tensors, arrays and nested lists, and gives tensors. An argument that it does not take is a
TypeError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..graph.base import TensorBase
from ..ops import cumulative, index, linalg, parts, reduce, select, shape
from ..ops import pointwise as P
from ..ops import sort as order_ops
from . import creation
from .creation import as_tensor
from .numpy_protocol import product

__all__ = ["FUNCTIONS", "WITHOUT_GRADIENT"]

FUNCTIONS: dict[Any, Callable[..., Any]] = {}

# Their results are no function of the values that could be differentiated.
WITHOUT_GRADIENT = frozenset({
    np.allclose, np.array2string, np.array_equal, np.array_equiv, np.array_repr, np.array_str, np.can_cast,
    np.common_type, np.isclose, np.iscomplexobj, np.isin, np.isrealobj, np.may_share_memory, np.min_scalar_type, np.ndim,
    np.result_type, np.shape, np.shares_memory, np.size,
})


def _for(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: this stands in for these functions of numpy's."""

    def enter(own: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            FUNCTIONS[function] = own
        return own

    return enter


def _t(x: Any) -> Any:
    return x if isinstance(x, TensorBase) else as_tensor(x)


def _c_order(name: str, order: str) -> None:
    if order not in ("C", "K", "A"):
        raise TypeError(f"np.{name}: tensors have C order, got order={order!r}")


def _floating(x: Any, dtype: Any) -> Any:
    """The dtype in which a mean is taken: numpy has means of integers."""
    return dtype or (None if x.dtype.kind in "fc" else creation.get_default_dtype())


def _flat(x: Any, axis: Any) -> tuple[Any, int]:
    """numpy's axis=None: the flattened tensor along its only dimension."""
    x = _t(x)
    return (shape.flatten(x), 0) if axis is None else (x, axis)


# -- reductions


@_for(np.sum)
def _sum(a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    return reduce.sum(_t(a), axis, keepdims, dtype=dtype)


@_for(np.nansum)
def _nansum(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return reduce.nansum(_t(a), axis, keepdims)


@_for(np.mean)
def _mean(a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    a = _t(a)
    return reduce.mean(a, axis, keepdims, dtype=_floating(a, dtype))


@_for(np.var)
def _var(a: Any, axis: Any = None, dtype: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    a = _t(a)
    return reduce.var(a.to(_floating(a, dtype)), axis, correction=ddof, keepdim=keepdims)


@_for(np.std)
def _std(a: Any, axis: Any = None, dtype: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    a = _t(a)
    return reduce.std(a.to(_floating(a, dtype)), axis, correction=ddof, keepdim=keepdims)


@_for(np.prod)
def _prod(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return product(_t(a), axis, keepdims)


@_for(np.max, np.amax)
def _max(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return reduce.amax(_t(a), axis, keepdims)


@_for(np.min, np.amin)
def _min(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return reduce.amin(_t(a), axis, keepdims)


@_for(np.ptp)
def _ptp(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _max(a, axis, keepdims) - _min(a, axis, keepdims)


for _function, _reduction in ((np.all, reduce.all), (np.any, reduce.any), (np.argmax, reduce.argmax),
                              (np.argmin, reduce.argmin)):
    FUNCTIONS[_function] = lambda a, axis=None, keepdims=False, _own=_reduction: _own(_t(a), axis, keepdims)


@_for(np.count_nonzero)
def _count_nonzero(a: Any, axis: Any = None) -> Any:
    return reduce.count_nonzero(_t(a), axis)


@_for(np.cumsum)
def _cumsum(a: Any, axis: Any = None) -> Any:
    return cumulative.cumsum(*_flat(a, axis))


@_for(np.cumprod)
def _cumprod(a: Any, axis: Any = None) -> Any:
    return cumulative.cumprod(*_flat(a, axis))


@_for(np.diff)
def _diff(a: Any, n: int = 1, axis: int = -1) -> Any:
    a = _t(a)
    for _ in range(n):
        count = a.shape[axis] - 1
        a = shape.narrow(a, axis, 1, count) - shape.narrow(a, axis, 0, count)
    return a


@_for(np.sort)
def _sort(a: Any, axis: Any = -1, kind: Any = None, *, stable: Any = None) -> Any:
    return order_ops.sort(*_flat(a, axis), stable=True).values


@_for(np.argsort)
def _argsort(a: Any, axis: Any = -1, kind: Any = None, *, stable: Any = None) -> Any:
    return order_ops.argsort(*_flat(a, axis), stable=True)


# -- shapes


@_for(np.reshape)
def _reshape(a: Any, /, shape: Any, order: str = "C") -> Any:
    _c_order("reshape", order)
    return _t(a).reshape(shape)


@_for(np.ravel)
def _ravel(a: Any, order: str = "C") -> Any:
    _c_order("ravel", order)
    return shape.flatten(_t(a))


@_for(np.transpose, np.permute_dims)
def _transpose(a: Any, axes: Any = None) -> Any:
    a = _t(a)
    return shape.permute(a, tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))


@_for(np.matrix_transpose, np.linalg.matrix_transpose)
def _matrix_transpose(x: Any, /) -> Any:
    return shape.transpose(x, -2, -1)


@_for(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Any:
    a = _t(a)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    for dim in sorted(dim % (a.ndim + len(axes)) for dim in axes):
        a = shape.unsqueeze(a, dim)
    return a


@_for(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Any:
    a = _t(a)
    for dim in () if axis is None else axis if isinstance(axis, tuple) else (axis,):
        if a.shape[dim] != 1:
            raise ValueError(f"np.squeeze: dimension {dim} of shape {a.shape} does not have size 1")
    return shape.squeeze(a, axis)


@_for(np.tile)
def _tile(A: Any, reps: Any) -> Any:
    return shape.tile(_t(A), reps if isinstance(reps, (tuple, list)) else (reps,))


@_for(np.repeat)
def _repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    return shape.repeat_interleave(_t(a), repeats if isinstance(repeats, int) else _t(repeats), axis)


@_for(np.flip)
def _flip(m: Any, axis: Any = None) -> Any:
    m = _t(m)
    dims = range(m.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return shape.flip(m, tuple(dims))


@_for(np.concatenate)
def _concatenate(arrays: Sequence[Any], /, axis: Any = 0) -> Any:
    tensors = [_t(a) for a in arrays]
    return shape.cat(tensors, axis) if axis is not None else shape.cat([shape.flatten(t) for t in tensors])


@_for(np.stack)
def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    return shape.stack([_t(a) for a in arrays], axis)


@_for(np.column_stack)
def _column_stack(tup: Sequence[Any]) -> Any:
    tensors = [_t(a) for a in tup]
    return shape.cat([t if t.ndim > 1 else t.reshape(-1, 1) for t in tensors], 1)


@_for(np.array_split)
def _array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    ary = _t(ary)
    size = ary.shape[axis]
    if isinstance(indices_or_sections, int):
        each, more = divmod(size, indices_or_sections)
        sizes = [each + 1] * more + [each] * (indices_or_sections - more)
    else:
        cuts = [0, *(min(cut if cut >= 0 else cut + size, size) for cut in map(int, indices_or_sections)), size]
        sizes = [max(b - a, 0) for a, b in zip(cuts, cuts[1:])]
    return list(shape.split(ary, sizes, axis))


@_for(np.split)
def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    size = _t(ary).shape[axis]
    if isinstance(indices_or_sections, int) and size % indices_or_sections:
        raise ValueError(f"np.split: size {size} is not a multiple of {indices_or_sections}; np.array_split takes it")
    return _array_split(ary, indices_or_sections, axis)


@_for(np.pad)
def _pad(array: Any, pad_width: Any, mode: str = "constant", *, constant_values: float = 0) -> Any:
    array = _t(array)
    if mode != "constant":
        raise TypeError(f"np.pad: tensors are padded with constants, got mode={mode!r}")
    widths = np.broadcast_to(pad_width, (array.ndim, 2))
    return shape.pad(array, [int(n) for pair in widths[::-1] for n in pair], value=constant_values)


@_for(np.copy)
def _copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    return shape.clone(_t(a))


for _function, _own in (
        (np.swapaxes, shape.transpose), (np.moveaxis, shape.movedim), (np.broadcast_to, shape.broadcast_to),
        (np.roll, shape.roll), (np.rot90, shape.rot90), (np.fliplr, shape.fliplr), (np.flipud, shape.flipud),
        (np.tril, shape.tril), (np.triu, shape.triu), (np.diag, shape.diag), (np.diagonal, shape.diagonal),
        (np.zeros_like, creation.zeros_like), (np.ones_like, creation.ones_like), (np.full_like, creation.full_like),
        (np.empty_like, creation.empty_like), (np.real, parts.real), (np.imag, parts.imag), (np.angle, parts.angle),
        (np.inner, linalg.inner), (np.vdot, lambda a, b: linalg.vdot(shape.flatten(_t(a)), shape.flatten(_t(b)))),
        (np.outer, lambda a, b: linalg.outer(shape.flatten(_t(a)), shape.flatten(_t(b)))), (np.kron, linalg.kron),
        (np.trace, lambda a: linalg.trace(a)), (np.linalg.inv, linalg.inv), (np.linalg.det, linalg.det),
        (np.linalg.slogdet, linalg.slogdet), (np.linalg.solve, lambda a, b: linalg.solve(_t(a), _t(b))),
        (np.linalg.cholesky, linalg.cholesky), (np.linalg.eigh, linalg.eigh), (np.linalg.eigvalsh, linalg.eigvalsh),
        (np.linalg.qr, linalg.qr), (np.linalg.pinv, linalg.pinv), (np.linalg.matrix_power, linalg.matrix_power),
        (np.linalg.svd, linalg.svd), (np.linalg.svdvals, linalg.svdvals), (np.linalg.multi_dot, linalg.multi_dot)):
    FUNCTIONS[_function] = _own

for _function, _own in ((np.vstack, shape.vstack), (np.hstack, shape.hstack), (np.dstack, shape.dstack)):
    FUNCTIONS[_function] = lambda tup, _own=_own: _own([_t(a) for a in tup])


# -- choosing


@_for(np.where)
def _where(condition: Any, *values: Any) -> Any:
    condition = _t(condition)
    if not values:
        return index.nonzero(condition, as_tuple=True)
    x, y = (v if isinstance(v, (bool, int, float, complex)) else _t(v) for v in values)
    return select.where(condition if condition.dtype.kind == "b" else condition != 0, x, y)


@_for(np.clip)
def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    return shape.clone(_t(a)) if low is None and high is None else select.clamp(_t(a), low, high)


@_for(np.nan_to_num)
def _nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    x = _t(x)
    limits = np.finfo(x.dtype)
    x = select.where(P.isnan(x), nan, x)
    x = select.where(x == math.inf, float(limits.max) if posinf is None else posinf, x)
    return select.where(x == -math.inf, float(limits.min) if neginf is None else neginf, x)


@_for(np.take)
def _take(a: Any, indices: Any, axis: Any = None) -> Any:
    a, axis = _flat(a, axis)
    return a[(slice(None),) * (axis % a.ndim) + (_t(indices),)]


@_for(np.take_along_axis)
def _take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    return index.take_along_dim(_t(arr), _t(indices), axis)


@_for(np.nonzero)
def _nonzero(a: Any) -> Any:
    return index.nonzero(a, as_tuple=True)


@_for(np.argwhere)
def _argwhere(a: Any) -> Any:
    return index.argwhere(a)


@_for(np.round, np.around)
def _round(a: Any, decimals: int = 0) -> Any:
    return P.round(_t(a), decimals=decimals)


# -- products


@_for(np.dot)
def _dot(a: Any, b: Any) -> Any:
    a, b = _t(a), _t(b)
    if not a.ndim or not b.ndim:
        return P.mul(a, b)
    return linalg.matmul(a, b) if b.ndim <= 2 else linalg.tensordot(a, b, ([a.ndim - 1], [b.ndim - 2]))


@_for(np.tensordot, np.linalg.tensordot)
def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if not isinstance(axes, int):
        axes = [list(side) if isinstance(side, (tuple, list)) else [side] for side in axes]
    return linalg.tensordot(_t(a), _t(b), axes)


@_for(np.einsum)
def _einsum(subscripts: str, *operands: Any, optimize: Any = False) -> Any:
    if not isinstance(subscripts, str):
        raise TypeError("np.einsum: with tensors, labels are given as a string")
    return linalg.einsum(subscripts, *[_t(x) for x in operands])


@_for(np.cross, np.linalg.cross)
def _cross(a: Any, b: Any, *, axis: int = -1) -> Any:
    return linalg.cross(_t(a), _t(b), axis)


@_for(np.linalg.norm)
def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    x = _t(x)
    several = len(axis) if isinstance(axis, tuple) else 0
    if several == 2 or (axis is None and ord is not None and x.ndim == 2):
        return linalg.matrix_norm(x, "fro" if ord is None else ord, axis or (0, 1), keepdims)
    if several > 2 or (axis is None and ord is not None and x.ndim > 2):
        raise ValueError(f"np.linalg.norm: no norm of order {ord!r} over {several or x.ndim} dimensions")
    return reduce.vector_norm(x, 2 if ord is None else ord, axis, keepdims)
