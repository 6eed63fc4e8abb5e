"""Functions that work on the device of their arrays, where there are several.

cupy launches on the thread's current device, whatever its arguments lie on: then results come to the wrong device, or
memory is read that the device cannot reach. With one device nothing here is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

import cupy

__all__ = ["Beside", "device_among"]


def device_among(values: Iterable[Any]) -> int | None:
    """The number of the device on which arrays lie, lists of arrays included; None if there is none.

    Raises:
        RuntimeError: they lie on several; names two of them.
    """
    found: int | None = None
    for value in values:
        if isinstance(value, cupy.ndarray):
            number: int | None = value.data.device_id
        elif value.__class__ is list or value.__class__ is tuple:
            number = device_among(value)
        else:
            continue
        if found is None:
            found = number
        elif number is not None and number != found:
            raise RuntimeError(f"one operand is on cuda:{found}, another on cuda:{number}; bring them to one device "
                               "with .to()")
    return found


class Beside:
    """A function of cupy, or a kernel, called with the device of its arrays as the current one."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        number = device_among(args)
        if number is None and kwargs:
            number = device_among(kwargs.values())
        if number is None or number == cupy.cuda.runtime.getDevice():
            result = self._function(*args, **kwargs)
        else:
            with cupy.cuda.Device(number):
                result = self._function(*args, **kwargs)
        return Beside(result) if isinstance(result, FunctionType) else result  # a plan, to be run with other arrays

    def __getattr__(self, name: str) -> Any:
        """What a ufunc has besides, such as `at`."""
        found = getattr(self._function, name)
        return Beside(found) if callable(found) else found
