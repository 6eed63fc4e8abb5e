"""What ops ask of their arguments: dimensions, raw arrays, and results that have no history.

It raises torch's exception types with our messages, and refuses to know what any op computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index as as_index
from typing import Any

from .._typing import Dims, Shape
from ..backend import get, of
from ..graph.base import INFERENCE_VERSION, TensorBase, wrap
from ..graph.modes import INFERENCE, state
from ._promote import result_type
from .cast import cast

__all__ = ["beside", "dims_of", "made_of", "made_there", "number_of", "one_dim", "plain", "raw", "same_dtype",
           "size_tuple", "take_dims"]


def raw(x: Any) -> Any:
    """The raw array of a tensor; anything else as it is."""
    return x.array if isinstance(x, TensorBase) else x


def beside(x: Any, indices: tuple[Any, ...]) -> tuple[Any, ...]:
    """Indices where x is: those in host memory are copied there, as in torch."""
    array = raw(x)
    if all(raw(index).__class__ is array.__class__ for index in indices):
        return indices
    backend, host = of(array), get("cpu")
    place = backend.device_of(array)
    return tuple([backend.from_host(raw(index), place) if of(raw(index)) is host else index for index in indices])


def made_there(like: Any, values: Any, dtype: Any = None) -> Any:
    """An array of these values on the device of the array `like`."""
    backend = of(like)
    if not backend.several:
        return backend.xp.asarray(values, dtype)
    with backend.using(backend.device_of(like)):
        return backend.xp.asarray(values, dtype)


def plain(like: Any, out: Any) -> Any:
    """A raw result as what `like` is: a tensor without history, or a raw array."""
    if not isinstance(like, TensorBase):
        return out
    made = wrap(of(like.array).xp.asarray(out))
    if state.flags & INFERENCE:
        made.version = INFERENCE_VERSION
    return made


def made_of(like: Any, value: Any) -> Any:
    """A number, or numbers in lists, as a raw array as `like`; one number takes no copy from the host."""
    backend = of(like)
    if isinstance(value, (list, tuple)):
        return made_there(like, value, like.dtype)
    if not backend.several:
        return backend.xp.full((), value, like.dtype)
    with backend.using(backend.device_of(like)):
        return backend.xp.full((), value, like.dtype)


def number_of(shape: Sequence[int]) -> int:
    """How many elements a shape has."""
    return math.prod(shape)


def one_dim(name: str, dim: Any, ndim: int) -> int:
    """A dimension counted from the front. A 0-d tensor counts as having one.

    Raises:
        TypeError: not an integer.
        IndexError: out of range.
    """
    try:
        found = as_index(dim)
    except TypeError:
        raise TypeError(f"{name}: a dim is an integer, got {type(dim).__name__}") from None
    limit = ndim or 1
    if not -limit <= found < limit:
        raise IndexError(f"{name}: dim {found} is outside [{-limit}, {limit - 1}] of a tensor with {ndim} dimensions")
    return found % limit


def take_dims(name: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    """An integer or a sequence of them as distinct dimensions counted from the front.

    Raises:
        RuntimeError: one is there twice.
    """
    if isinstance(dim, (tuple, list)):
        found = tuple([one_dim(name, d, ndim) for d in dim])
        if len(set(found)) != len(found):
            raise RuntimeError(f"{name}: a dimension is twice among dims {tuple(dim)}")
    else:
        found = (one_dim(name, dim, ndim),)
    return found


def dims_of(name: str, dim: Dims, ndim: int) -> tuple[int, ...] | None:
    """The dimensions that a reduction runs over; None for all of them (also for an empty tuple)."""
    if dim is None or dim == () or dim == []:
        return None
    found = take_dims(name, dim, ndim)
    return None if len(found) >= ndim else found


def size_tuple(name: str, size: Any) -> Shape:
    """An integer or a sequence of integers as a tuple of ints.

    Raises:
        TypeError: anything else.
    """
    try:
        if isinstance(size, (tuple, list)):
            return tuple([as_index(n) for n in size])
        return (as_index(size),)
    except TypeError:
        raise TypeError(f"{name}: sizes are integers, got {size!r}") from None


def same_dtype(tensors: Sequence[Any]) -> list[Any]:
    """All tensors in the dtype to which they promote together."""
    dtype, has_dims = tensors[0].dtype, bool(tensors[0].shape)
    for t in tensors[1:]:
        dtype = result_type(dtype, has_dims, t.dtype, bool(t.shape))
        has_dims = has_dims or bool(t.shape)
    return [t if t.dtype == dtype else cast(t, dtype) for t in tensors]
