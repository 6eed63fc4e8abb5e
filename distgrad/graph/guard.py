"""The memory guard: while a graph holds an array for backward, numpy refuses to write into it.

Versions see what goes through tensors; the guard also sees a write through the raw array. It works on
the array object that the tensor has: numpy's flag belongs to the object, so a view that was made
before still writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..backend import when_several
from .base import TensorBase
from .modes import GUARDING, Switch
from .places import AT_ONCE, beside

__all__ = ["Guard", "hold", "set_memory_guard", "writable"]

_lock = threading.Lock()
_held: dict[int, list[Any]] = {}  # id of an array -> [array, number of guards]


class Guard:
    """Keeps arrays read-only while it lives; several guards may hold one array."""

    __slots__ = ("_arrays",)

    def __init__(self, arrays: list[Any]) -> None:
        self._arrays = arrays
        with _lock:
            for array in arrays:
                entry = _held.setdefault(id(array), [array, 0])
                entry[1] += 1
                array.flags.writeable = False

    def __del__(self) -> None:
        with _lock:
            for array in self._arrays:
                entry = _held[id(array)]
                entry[1] -= 1
                if not entry[1]:
                    del _held[id(array)]
                    array.flags.writeable = True


def hold(node: Any) -> None:
    """Guard what a new node saved. Arrays that were read-only before are left alone."""
    arrays = [value.array if isinstance(value, TensorBase) else value for value in node.values]
    node.guard = Guard([a for a in arrays if hasattr(a, "base") and hasattr(getattr(a, "flags", None), "writeable") and
                        (a.flags.writeable or id(a) in _held)])  # other devices' memory cannot be made read-only


def writable(array: Any) -> AbstractContextManager[Any]:
    """For an in-place operation of ours, which the version counts: the guard steps aside."""
    return _released(array) if id(array) in _held else _at(array)


@contextmanager
def _released(array: Any) -> Iterator[None]:
    array.flags.writeable = True
    try:
        yield
    finally:
        array.flags.writeable = False


def _anywhere(array: Any) -> AbstractContextManager[Any]:
    return AT_ONCE


def _follow() -> None:
    """There are several devices of one kind: writing is done on that of the array."""
    global _at
    _at = lambda array: beside((array,))


_at = _anywhere
when_several(_follow)


class set_memory_guard(Switch):
    """Switch the memory guard on or off.

    While it is on, arrays that operations save for backward are read-only until backward has used
    them: a write through numpy (`t.numpy()[0] = 1`) raises ValueError at the line that writes, instead
    of making a gradient wrong. Views of the array that existed before are not covered.
    """

    def __init__(self, mode: bool) -> None:
        super().__init__(*((GUARDING, 0) if mode else (0, GUARDING)))
