"""Batches in pinned memory of the host, from which copies to a GPU need not be waited for.

Whoever makes a batch asks `room` for memory first, so that it is pinned from the beginning; `pin` copies what was
made elsewhere. Which device that memory is pinned for is known to the worker; nothing here knows of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..backend import Device, cuda_device, get
from ..graph.base import TensorBase

__all__ = ["pin", "pinning", "place_for", "room"]

pinning: ContextVar[Device | None] = ContextVar("distgrad_data_pinning", default=None)


def place_for(device: Any) -> Device:
    """The device that batches are pinned for: '' is the current one.

    Raises:
        RuntimeError: it cannot be used; says why.
    """
    place = cuda_device(device or None)
    return get(place).place(place)


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    """Pinned memory for a batch that is being made; None if ordinary memory is wanted, for the caller to take."""
    place = pinning.get()
    return None if place is None else get(place).host_memory(shape, dtype)


def pin(value: Any, place: Device) -> Any:
    """A batch with its tensors pinned, in the structure that it has.

    Mappings and sequences keep their type, an object with a method `pin_memory` says itself what is pinned; arrays,
    numbers and strings stay as they are, and so do tensors on a device.
    """
    if isinstance(value, TensorBase):
        return value.pin_memory(place) if isinstance(value.array, np.ndarray) else value  # type: ignore[attr-defined]
    if isinstance(value, (str, bytes, np.ndarray)):
        return value
    if hasattr(value, "pin_memory"):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return _rebuilt(value, {key: pin(part, place) for key, part in value.items()})
    if hasattr(value, "_fields"):
        return type(value)(*[pin(part, place) for part in value])
    if isinstance(value, Sequence):
        return _rebuilt(value, [pin(part, place) for part in value])
    return value


def _rebuilt(value: Any, parts: Any) -> Any:
    """`parts` as the type of `value`, where that can be made of them."""
    if type(parts) is type(value):
        return parts
    try:
        return type(value)(parts)
    except TypeError:
        return parts
