"""StrictArray: an array whose memory is private. It behaves as cupy's arrays do, and refuses what they would refuse.

Results of 0-d arithmetic are arrays, not numbers; an operand is another such array or a number; `bool(a)` and
`a.item()` read the value, and are counted; `float(a)` and `int(a)` raise, so that code says when it reads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partialmethod
from threading import Lock
from typing import Any, NoReturn

import numpy as np

from ..._typing import DType, Shape

__all__ = ["Flags", "StrictArray", "Transfers", "call", "only_numpys", "refuse", "transfers"]

_new = object.__new__


_counting = Lock()  # simulated ranks count from several threads


@dataclass
class Transfers:
    """What has crossed between the host and the strict device, since the last `reset`.

    Attributes:
        from_host, to_host: how many arrays.
        bytes_from_host, bytes_to_host: how much.
        scalars: how many values were read one by one, by `item()` and by `bool()`.
    """

    from_host: int = 0
    to_host: int = 0
    bytes_from_host: int = 0
    bytes_to_host: int = 0
    scalars: int = 0

    def note(self, way: str, nbytes: int) -> None:
        """Count one array."""
        with _counting:
            setattr(self, way, getattr(self, way) + 1)
            setattr(self, f"bytes_{way}", getattr(self, f"bytes_{way}") + nbytes)

    def note_scalar(self) -> None:
        """Count one value that is read."""
        with _counting:
            self.scalars += 1

    def reset(self) -> None:
        """Count from zero."""
        for field in fields(self):
            setattr(self, field.name, 0)


transfers = Transfers()


class Flags:
    """How an array lies in memory."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")

    def __init__(self, flags: Any) -> None:
        self.c_contiguous: bool = flags.c_contiguous
        self.f_contiguous: bool = flags.f_contiguous
        self.owndata: bool = flags.owndata


class StrictArray:
    """An array on the strict device. Made by `Strict.from_host` and by the device's own namespace."""

    __slots__ = ("__weakref__", "_memory", "base")

    __array_ufunc__ = None  # numpy's operators leave the operation to this class, its functions raise TypeError
    __hash__ = None  # type: ignore[assignment]

    _memory: np.ndarray
    base: StrictArray | None  # whose memory it is, as numpy's `base`

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self.base = None

    # -- closed to the host

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"an array of shape {self.shape} on the strict device is no numpy array: bring it to the host "
                        "with backend.to_host(array), a tensor with .cpu()")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise TypeError(f"numpy.{func.__name__} was called with an array of the strict device: call it through the "
                        "array's own namespace, backend.of(array).xp")

    def __dlpack__(self, **options: Any) -> NoReturn:
        raise BufferError("memory of the strict device is not given away: use .cpu() first")

    def __dlpack_device__(self) -> NoReturn:
        raise BufferError("memory of the strict device is not given away: use .cpu() first")

    def __reduce__(self) -> NoReturn:
        raise TypeError("an array of the strict device is not pickled: bring it to the host first")

    def _no_number(self, *args: Any) -> NoReturn:
        raise TypeError("an array of the strict device is no Python number: say a.item(), which waits for the device")

    __float__ = __int__ = __index__ = __complex__ = _no_number

    def __bool__(self) -> bool:
        transfers.note_scalar()
        return bool(self._memory)

    def item(self, *index: Any) -> Any:
        """One element as a Python number."""
        transfers.note_scalar()
        return self._memory.item(*index)

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        transfers.note("to_host", self.nbytes)
        return self._memory.tolist()

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        """The content in memory of the host, for the backend, which counts it."""
        if out is None:
            return self._memory.copy(order="K")
        out[...] = self._memory
        return out

    def write(self, host: np.ndarray) -> None:
        """Take the content of an array of the host, for the backend, which counts it."""
        self._memory[...] = host

    # -- what it is

    @property
    def shape(self) -> Shape:
        return self._memory.shape

    @property
    def dtype(self) -> DType:
        return self._memory.dtype

    @property
    def ndim(self) -> int:
        return self._memory.ndim

    @property
    def size(self) -> int:
        return self._memory.size

    @property
    def itemsize(self) -> int:
        return self._memory.itemsize

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        return self._memory.strides

    @property
    def flags(self) -> Flags:
        return Flags(self._memory.flags)

    @property
    def address(self) -> int:
        """Where the first element lies."""
        return int(self._memory.__array_interface__["data"][0])

    @property
    def T(self) -> StrictArray:
        return call(operator.attrgetter("T"), self)

    @property
    def real(self) -> StrictArray:
        return call(operator.attrgetter("real"), self)

    @property
    def imag(self) -> StrictArray:
        return call(operator.attrgetter("imag"), self)

    def __len__(self) -> int:
        return len(self._memory)

    def __iter__(self) -> Iterator[StrictArray]:
        return (self[i] for i in range(len(self._memory)))

    def __getitem__(self, key: Any) -> StrictArray:
        return call(_taken, self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            raise TypeError("an array of the strict device takes arrays of its own, and numbers; not a "
                            f"{type(value).__name__}")
        call(_at, operator.setitem, self, key, value)

    def __copy__(self) -> StrictArray:
        return StrictArray(self._memory.copy())

    def __deepcopy__(self, memo: Any) -> StrictArray:
        return StrictArray(self._memory.copy())

    def __repr__(self) -> str:
        return f"<array of the strict device, shape {self.shape}, {self.dtype}>"


def _taken(memory: np.ndarray, key: Any) -> np.ndarray:
    """memory[key], a view also where it is one element."""
    parts = key if isinstance(key, tuple) else (key,)
    return _at(operator.getitem, memory, key if any(part is Ellipsis for part in parts) else (*parts, ...))


def _at(function: Callable[..., Any], memory: np.ndarray, *args: Any) -> Any:
    """operator.getitem or setitem, which raises what cupy raises where index arrays do not fit each other."""
    try:
        return function(memory, *args)
    except IndexError as error:
        if "could not be broadcast" in str(error):
            raise ValueError(str(error)) from None
        raise


def _diagonal(memory: np.ndarray, *dims: int) -> np.ndarray:
    """A view that may be written to where the memory may."""
    found = memory.diagonal(*dims)
    found.flags.writeable = memory.flags.writeable
    return found


# -- numpy's functions over private memory

def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs) with the memory of every StrictArray, and StrictArrays for the arrays that it gives.

    Raises:
        TypeError: an argument is a numpy array.
    """
    inside: list[StrictArray] = []
    result = function(*[_opened(x, inside) for x in args], **{key: _opened(x, inside) for key, x in kwargs.items()})
    return _closed(result, inside)


def refuse(host: np.ndarray) -> Any:
    """A numpy array beside arrays of this device."""
    raise TypeError(f"a numpy array (shape {host.shape}, {host.dtype}) meets the strict device: bring it there with "
                    "backend.from_host(array), or a tensor with .to('strict')")


def _opened(x: Any, inside: list[StrictArray]) -> Any:
    if isinstance(x, StrictArray):
        inside.append(x)
        return x._memory
    if isinstance(x, np.ndarray):
        return refuse(x)
    if isinstance(x, (tuple, list)) and type(x) in (tuple, list):
        return type(x)([_opened(part, inside) for part in x])
    return x


def _closed(result: Any, inside: list[StrictArray]) -> Any:
    if isinstance(result, np.generic):
        return StrictArray(np.asarray(result))
    if isinstance(result, np.ndarray):
        for known in inside:
            if result is known._memory:
                return known
        made = StrictArray(result)
        owner = result.base
        if owner is not None:
            made.base = StrictArray(owner)
            for known in inside:
                if owner is known._memory or owner is known._memory.base:
                    made.base = known if known.base is None else known.base
                    break
        return made
    if isinstance(result, (tuple, list)):
        parts = [_closed(part, inside) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    return result


_METHODS = ("all", "any", "argmax", "argmin", "argsort", "astype", "clip", "conj", "conjugate", "copy", "cumprod",
            "cumsum", "diagonal", "dot", "fill", "flatten", "max", "mean", "min", "nonzero", "prod", "ravel", "repeat",
            "reshape", "round", "searchsorted", "sort", "squeeze", "std", "sum", "swapaxes", "take", "trace",
            "transpose", "var", "view")
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert")


def only_numpys(options: Mapping[str, Any]) -> None:
    """Refuse options of reductions that other devices' arrays do not have."""
    if not _ONLY_NUMPYS.isdisjoint(options):
        raise TypeError(f"numpy alone has {', '.join(sorted(_ONLY_NUMPYS & set(options)))} here: do without")


_ONLY_NUMPYS = frozenset(("initial", "where"))


def _method(name: str) -> Callable[..., Any]:
    function = operator.attrgetter(name)

    def method(self: StrictArray, *args: Any, **kwargs: Any) -> Any:
        only_numpys(kwargs)
        return call(lambda memory, *rest, **more: function(memory)(*rest, **more), self, *args, **kwargs)

    method.__name__ = name
    return method


_OPERANDS = (StrictArray, bool, int, float, complex, np.generic, np.ndarray)  # not tensors: they answer themselves


def _operator(function: Callable[..., Any], turned: bool = False) -> Callable[..., Any]:
    def method(self: StrictArray, other: Any) -> Any:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return call(function, other, self) if turned else call(function, self, other)

    return method


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: StrictArray, other: Any) -> StrictArray:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        call(function, self, other)
        return self

    return method


for _name in _METHODS:
    setattr(StrictArray, _name, _method(_name))
StrictArray.diagonal = lambda self, *dims: call(_diagonal, self, *dims)  # type: ignore[attr-defined]
for _name in (*_BINARY, *_COMPARISONS):
    _function = getattr(operator, f"{_name}_" if _name in ("and", "or") else _name)
    setattr(StrictArray, f"__{_name}__", _operator(_function))
    if _name in _BINARY:
        setattr(StrictArray, f"__r{_name}__", _operator(_function, turned=True))
        setattr(StrictArray, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))
for _name in _UNARY:
    setattr(StrictArray, f"__{_name}__", partialmethod(lambda self, function: call(function, self),
                                                       getattr(operator, _name)))
