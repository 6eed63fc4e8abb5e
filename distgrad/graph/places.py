"""Operands on several devices, and work on a device that is not the current one.

Mixed operands are found when an operation has failed, so that operations which succeed pay nothing. Where there are
several devices of one kind, operations and backward put `beside` around what they do; with one they never call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..backend import DeviceArray, device_of, of
from .base import TensorBase

__all__ = ["AT_ONCE", "beside", "each_place", "refuse_mixed"]

AT_ONCE: AbstractContextManager[None] = nullcontext()  # where nothing has to be done first


def refuse_mixed(name: str, inputs: Sequence[Any]) -> None:
    """Raise a RuntimeError that names the devices, if the inputs of an operation lie on several."""
    first = None
    arrays = [x.array if isinstance(x, TensorBase) else x for x in inputs]
    for place in (device_of(array) for array in arrays if isinstance(array, DeviceArray)):
        if first is None:
            first = place
        elif place != first:
            raise RuntimeError(f"{name}: one operand is on {first}, another on {place}; bring them to one device "
                               "with .to()") from None


def beside(values: Iterable[Any], name: str = "") -> AbstractContextManager[Any]:
    """A context for work on tensors or arrays, on the device where they lie if there are several of its kind.

    Args:
        name: of the operation, where all of them must lie on one device; else the first decides.
    """
    found = None
    for value in values:
        array = value.array if isinstance(value, TensorBase) else value
        if isinstance(array, DeviceArray) and (backend := of(array)).several:
            if found is None:
                found = backend, array
                if not name:
                    break
            elif found[0] is backend and backend.device_of(found[1]) != backend.device_of(array):
                refuse_mixed(name, (found[1], array))
    return AT_ONCE if found is None else found[0].beside(found[1]) or AT_ONCE


def each_place(tensors: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Tensors of one kind of device, those of one device after those of another, each while it is the current one."""
    backend = of(tensors[0].array)
    if not backend.several:
        yield tensors
        return
    parts: dict[Any, list[Any]] = {}
    for tensor in tensors:
        parts.setdefault(backend.device_of(tensor.array), []).append(tensor)
    for place, part in parts.items():
        with backend.using(place):
            yield part
