"""numpy's functions (those that are no ufuncs) by operations, with numpy's names, arguments and defaults.

Each takes tensors, arrays and nested lists, and gives tensors. An argument that it does not take is a
TypeError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..ops import index, linalg, parts, reduce, select, shape
from ..ops import pointwise as P
from . import creation
from .numpy_reductions import FUNCTIONS, as_numpys, flattened, tensor_of

__all__ = ["FUNCTIONS", "WITHOUT_GRADIENT"]

# Their results are no function of the values that could be differentiated.
WITHOUT_GRADIENT = frozenset({
    np.allclose, np.array2string, np.array_equal, np.array_equiv, np.array_repr, np.array_str, np.can_cast,
    np.common_type, np.isclose, np.iscomplexobj, np.isin, np.isrealobj, np.may_share_memory, np.min_scalar_type,
    np.ndim, np.result_type, np.shape, np.shares_memory, np.size,
})


def _c_order(name: str, order: str) -> None:
    if order not in ("C", "K", "A"):
        raise TypeError(f"np.{name}: tensors have C order, got order={order!r}")


# -- shapes


@as_numpys(np.reshape)
def _reshape(a: Any, /, shape: Any, order: str = "C") -> Any:
    _c_order("reshape", order)
    return tensor_of(a).reshape(shape)


@as_numpys(np.ravel)
def _ravel(a: Any, order: str = "C") -> Any:
    _c_order("ravel", order)
    return shape.flatten(tensor_of(a))


@as_numpys(np.transpose, np.permute_dims)
def _transpose(a: Any, axes: Any = None) -> Any:
    a = tensor_of(a)
    return shape.permute(a, tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))


@as_numpys(np.matrix_transpose, np.linalg.matrix_transpose)
def _matrix_transpose(x: Any, /) -> Any:
    return shape.transpose(x, -2, -1)


@as_numpys(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Any:
    a = tensor_of(a)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    for dim in sorted(dim % (a.ndim + len(axes)) for dim in axes):
        a = shape.unsqueeze(a, dim)
    return a


@as_numpys(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Any:
    a = tensor_of(a)
    for dim in () if axis is None else axis if isinstance(axis, tuple) else (axis,):
        if a.shape[dim] != 1:
            raise ValueError(f"np.squeeze: dimension {dim} of shape {a.shape} does not have size 1")
    return shape.squeeze(a, axis)


@as_numpys(np.tile)
def _tile(A: Any, reps: Any) -> Any:
    return shape.tile(tensor_of(A), reps if isinstance(reps, (tuple, list)) else (reps,))


@as_numpys(np.repeat)
def _repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    return shape.repeat_interleave(tensor_of(a), repeats if isinstance(repeats, int) else tensor_of(repeats), axis)


@as_numpys(np.flip)
def _flip(m: Any, axis: Any = None) -> Any:
    m = tensor_of(m)
    dims = range(m.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return shape.flip(m, tuple(dims))


@as_numpys(np.concatenate)
def _concatenate(arrays: Sequence[Any], /, axis: Any = 0) -> Any:
    tensors = [tensor_of(a) for a in arrays]
    return shape.cat(tensors, axis) if axis is not None else shape.cat([shape.flatten(t) for t in tensors])


@as_numpys(np.stack)
def _stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    return shape.stack([tensor_of(a) for a in arrays], axis)


@as_numpys(np.column_stack)
def _column_stack(tup: Sequence[Any]) -> Any:
    tensors = [tensor_of(a) for a in tup]
    return shape.cat([t if t.ndim > 1 else t.reshape(-1, 1) for t in tensors], 1)


@as_numpys(np.array_split)
def _array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    ary = tensor_of(ary)
    size = ary.shape[axis]
    if isinstance(indices_or_sections, int):
        each, more = divmod(size, indices_or_sections)
        sizes = [each + 1] * more + [each] * (indices_or_sections - more)
    else:
        cuts = [0, *(min(cut if cut >= 0 else cut + size, size) for cut in map(int, indices_or_sections)), size]
        sizes = [max(b - a, 0) for a, b in pairwise(cuts)]
    return list(shape.split(ary, sizes, axis))


@as_numpys(np.split)
def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    size = tensor_of(ary).shape[axis]
    if isinstance(indices_or_sections, int) and size % indices_or_sections:
        raise ValueError(f"np.split: size {size} is not a multiple of {indices_or_sections}; np.array_split takes it")
    return _array_split(ary, indices_or_sections, axis)


@as_numpys(np.pad)
def _pad(array: Any, pad_width: Any, mode: str = "constant", *, constant_values: float = 0) -> Any:
    array = tensor_of(array)
    if mode != "constant":
        raise TypeError(f"np.pad: tensors are padded with constants, got mode={mode!r}")
    widths = np.broadcast_to(pad_width, (array.ndim, 2))
    return shape.pad(array, [int(n) for pair in widths[::-1] for n in pair], value=constant_values)


@as_numpys(np.copy)
def _copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    return shape.clone(tensor_of(a))


@as_numpys(np.broadcast_to)
def _broadcast_to(array: Any, shape: Any) -> Any:
    return tensor_of(array).broadcast_to(shape if isinstance(shape, (tuple, list)) else (shape,))


def _of_two(own: Callable[..., Any]) -> Callable[..., Any]:
    """A function of two operands, either of which may be an array or a list."""
    return lambda a, b: own(tensor_of(a), tensor_of(b))


for _function, _own in (
        (np.swapaxes, lambda a, axis1, axis2: shape.transpose(a, axis1, axis2)), (np.moveaxis, shape.movedim),
        (np.roll, lambda a, shift, axis=None: shape.roll(a, shift, axis)),
        (np.rot90, lambda m, k=1, axes=(0, 1): shape.rot90(m, k, axes)), (np.fliplr, shape.fliplr),
        (np.flipud, shape.flipud), (np.tril, lambda m, k=0: shape.tril(m, k)),
        (np.triu, lambda m, k=0: shape.triu(m, k)), (np.diag, lambda v, k=0: shape.diag(v, k)),
        (np.diagonal, lambda a, offset=0, axis1=0, axis2=1: shape.diagonal(a, offset, axis1, axis2)),
        (np.zeros_like, creation.zeros_like), (np.ones_like, creation.ones_like), (np.full_like, creation.full_like),
        (np.empty_like, creation.empty_like), (np.real, parts.real), (np.imag, parts.imag), (np.angle, parts.angle),
        (np.trace, linalg.trace), (np.linalg.inv, linalg.inv), (np.linalg.det, linalg.det),
        (np.linalg.slogdet, linalg.slogdet), (np.linalg.cholesky, linalg.cholesky), (np.linalg.eigh, linalg.eigh),
        (np.linalg.eigvalsh, linalg.eigvalsh), (np.linalg.qr, linalg.qr), (np.linalg.pinv, linalg.pinv),
        (np.linalg.matrix_power, linalg.matrix_power), (np.linalg.svd, linalg.svd),
        (np.linalg.svdvals, linalg.svdvals), (np.linalg.multi_dot, linalg.multi_dot),
        (np.inner, _of_two(linalg.inner)), (np.kron, _of_two(linalg.kron)), (np.linalg.solve, _of_two(linalg.solve)),
        (np.vdot, _of_two(lambda a, b: linalg.vdot(shape.flatten(a), shape.flatten(b)))),
        (np.outer, _of_two(lambda a, b: linalg.outer(shape.flatten(a), shape.flatten(b))))):
    FUNCTIONS[_function] = _own

for _function, _own in ((np.vstack, shape.vstack), (np.hstack, shape.hstack), (np.dstack, shape.dstack)):
    FUNCTIONS[_function] = lambda tup, _own=_own: _own([tensor_of(a) for a in tup])


# -- choosing


@as_numpys(np.where)
def _where(condition: Any, *values: Any) -> Any:
    condition = tensor_of(condition)
    if not values:
        return index.nonzero(condition, as_tuple=True)
    x, y = (v if isinstance(v, (bool, int, float, complex)) else tensor_of(v) for v in values)
    return select.where(condition if condition.dtype.kind == "b" else condition != 0, x, y)


@as_numpys(np.clip)
def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    return shape.clone(tensor_of(a)) if low is None and high is None else select.clamp(tensor_of(a), low, high)


@as_numpys(np.nan_to_num)
def _nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    x = tensor_of(x)
    limits = np.finfo(x.dtype)
    x = select.where(P.isnan(x), nan, x)
    x = select.where(x == math.inf, float(limits.max) if posinf is None else posinf, x)
    return select.where(x == -math.inf, float(limits.min) if neginf is None else neginf, x)


@as_numpys(np.take)
def _take(a: Any, indices: Any, axis: Any = None) -> Any:
    a, axis = flattened(a, axis)
    return a[(slice(None),) * (axis % a.ndim) + (tensor_of(indices),)]


@as_numpys(np.take_along_axis)
def _take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    return index.take_along_dim(tensor_of(arr), tensor_of(indices), axis)


@as_numpys(np.nonzero)
def _nonzero(a: Any) -> Any:
    return index.nonzero(a, as_tuple=True)


@as_numpys(np.argwhere)
def _argwhere(a: Any) -> Any:
    return index.argwhere(a)


@as_numpys(np.round, np.around)
def _round(a: Any, decimals: int = 0) -> Any:
    return P.round(tensor_of(a), decimals=decimals)


# -- products


@as_numpys(np.dot)
def _dot(a: Any, b: Any) -> Any:
    a, b = tensor_of(a), tensor_of(b)
    if not a.ndim or not b.ndim:
        return P.mul(a, b)
    return linalg.matmul(a, b) if b.ndim <= 2 else linalg.tensordot(a, b, ([a.ndim - 1], [b.ndim - 2]))


@as_numpys(np.tensordot, np.linalg.tensordot)
def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if not isinstance(axes, int):
        axes = [list(side) if isinstance(side, (tuple, list)) else [side] for side in axes]
    return linalg.tensordot(tensor_of(a), tensor_of(b), axes)


@as_numpys(np.einsum)
def _einsum(subscripts: str, *operands: Any, optimize: Any = False) -> Any:
    if not isinstance(subscripts, str):
        raise TypeError("np.einsum: with tensors, labels are given as a string")
    return linalg.einsum(subscripts, *[tensor_of(x) for x in operands])


@as_numpys(np.cross, np.linalg.cross)
def _cross(a: Any, b: Any, *, axis: int = -1) -> Any:
    return linalg.cross(tensor_of(a), tensor_of(b), axis)


@as_numpys(np.linalg.norm)
def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    x = tensor_of(x)
    several = len(axis) if isinstance(axis, tuple) else 0
    if several == 2 or (axis is None and ord is not None and x.ndim == 2):
        return linalg.matrix_norm(x, "fro" if ord is None else ord, axis or (0, 1), keepdims)
    if several > 2 or (axis is None and ord is not None and x.ndim > 2):
        raise ValueError(f"np.linalg.norm: no norm of order {ord!r} over {several or x.ndim} dimensions")
    return reduce.vector_norm(x, 2 if ord is None else ord, axis, keepdims)
