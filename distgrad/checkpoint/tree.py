"""A state as JSON and arrays: numbers, strings, lists and dictionaries stand in the JSON, arrays are named there.

What JSON does not have is a dictionary with one name that begins with a dollar sign. Nothing is executed when a
state is read: it is made of these kinds of values and no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._tensor.creation import from_numpy
from ..backend import of
from ..distributed import ShardedArray
from ..errors import CheckpointError
from ..graph.base import TensorBase
from .tensorfile import to_storable

__all__ = ["LazyTensor", "decode", "encode", "loaded"]

_DEEPEST = 50
_COMPLEX = "complex128"  # which files hold as pairs of float64


class LazyTensor:
    """A tensor in a file, read anew each time that `array` is asked for.

    Attributes:
        shape, dtype: of the tensor.
    """

    __slots__ = ("_read", "dtype", "kind", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[], np.ndarray]) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.kind = "$tensor"
        self._read = read

    @property
    def array(self) -> np.ndarray:
        """Its elements, in new memory.

        Raises:
            CheckpointError, OSError: the file has changed since it was found right, or cannot be read.
        """
        return self._read()


def encode(value: Any, what: str, arrays: dict[str, np.ndarray], path: str = "", depth: int = 0) -> Any:
    """A value as JSON; its arrays are put into `arrays`, on the host, without a copy where that can be.

    Args:
        what: whose state it is, for messages.
        path: where in the state the value stands; arrays are named by that.

    Raises:
        TypeError: something that is none of the kinds above; says where.
    """
    if depth > _DEEPEST:
        raise TypeError(f"{what}: {path[:100]!r} is nested more than {_DEEPEST} deep, or contains itself")
    match value:
        case None | bool() | str():
            return value
        case np.generic():
            return _reference("$scalar", np.asarray(value), what, arrays, path)
        case int():
            return int(value)
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case complex():
            return {"$complex": [encode(part, what, arrays, path, depth + 1) for part in (value.real, value.imag)]}
        case ShardedArray():
            return {"$sharded": {"key": value.key, "dtype": str(np.dtype(value.dtype)), "shape": list(value.shape),
                                 "order": list(value.order), "pieces": [list(piece) for piece in value.pieces]}}
        case TensorBase():
            return _reference("$tensor", of(value.array).to_host(value.array), what, arrays, path)
        case np.ndarray():
            return _reference("$array", value, what, arrays, path)
        case list() | tuple():
            items = [encode(item, what, arrays, _join(path, number), depth + 1) for number, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case Mapping():
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: encode(item, what, arrays, _join(path, key), depth + 1) for key, item in value.items()}
            return {"$dict": [[encode(key, what, arrays, f"{path}[key]", depth + 1),
                               encode(item, what, arrays, _join(path, key), depth + 1)]
                              for key, item in value.items()]}
    raise TypeError(f"{what}: a checkpoint keeps numbers, strings, lists, dictionaries, tensors and arrays, and "
                    f"{path[:100]!r} is a {type(value).__name__}")


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _reference(form: str, array: np.ndarray, what: str, arrays: dict[str, np.ndarray], path: str) -> Any:
    name = _put(array, what, arrays, path)
    return {form: name, "as": _COMPLEX} if array.dtype.kind == "c" and array.itemsize == 16 else {form: name}


def _put(array: np.ndarray, what: str, arrays: dict[str, np.ndarray], path: str) -> str:
    storable = to_storable(array)
    if storable is None:
        raise TypeError(f"{what}: {path[:100]!r} has elements of {array.dtype}, which safetensors files do not have")
    name = path or "value"
    while name in arrays or name == "__metadata__":
        name += "~"
    arrays[name] = storable
    return name


def decode(value: Any, tensor: Callable[[str, bool], LazyTensor], sharded: Callable[[dict[str, Any]], LazyTensor],
           depth: int = 0) -> Any:
    """The value that was encoded, with a LazyTensor for each of its tensors and arrays.

    Args:
        tensor: makes that of an array's name, and whether it holds pairs of numbers that are complex ones.
        sharded: makes that of the description of a ShardedArray.

    Raises:
        CheckpointError: it is nothing that `encode` makes.
    """
    def inner(item: Any) -> Any:
        return decode(item, tensor, sharded, depth + 1)

    if depth > 2 * _DEEPEST:
        raise CheckpointError("its state is nested too deeply")
    match value:
        case None | bool() | int() | float() | str():
            return value
        case [*items]:
            return [inner(item) for item in items]
        case {"$tuple": [*items], **rest} if not rest:
            return tuple(inner(item) for item in items)
        case {"$float": "inf" | "-inf" | "nan" as text, **rest} if not rest:
            return float(text)
        case {"$complex": [real, imaginary], **rest} if not rest:
            return complex(inner(real), inner(imaginary))
        case {"$dict": [*pairs], **rest} if not rest and all(isinstance(p, list) and len(p) == 2 for p in pairs):
            return {_key(inner(key)): inner(item) for key, item in pairs}
        case {"$sharded": dict(description), **rest} if not rest:
            return sharded(description)
        case {"$tensor": str()} | {"$array": str()} | {"$scalar": str()}:
            return _lazy(value, tensor)
        case dict() if not any(key.startswith("$") for key in value):
            return {key: inner(item) for key, item in value.items()}
    raise CheckpointError(f"its state has a value that no checkpoint has: {str(value)[:100]}")


def _key(value: Any) -> Any:
    if isinstance(value, (list, dict, LazyTensor)):
        raise CheckpointError("its state has a dictionary with a key that is none")
    return value


def _lazy(value: dict[str, Any], tensor: Callable[[str, bool], LazyTensor]) -> LazyTensor:
    """The reference to a tensor, array or number."""
    form, name = next(iter(value.items()))
    if value not in ({form: name}, {form: name, "as": _COMPLEX}):
        raise CheckpointError(f"its state has a value that no checkpoint has: {str(value)[:100]}")
    found = tensor(name, "as" in value)
    found.kind = form
    return found


def loaded(value: Any) -> Any:
    """A decoded value with all of its tensors and arrays read."""
    match value:
        case LazyTensor():
            array = value.array
            return from_numpy(array) if value.kind == "$tensor" else array[()] if value.kind == "$scalar" else array
        case list() | tuple():
            return type(value)(loaded(item) for item in value)
        case dict():
            return {key: loaded(item) for key, item in value.items()}
    return value
