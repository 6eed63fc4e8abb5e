"""How the files of this package reach the backend of CUDA devices, which is loaded when it is first needed."""

from __future__ import annotations

from typing import Any

from ..backend import Device, cuda_device, get

__all__ = ["backend", "placed"]


def backend() -> Any:
    """The backend.

    Raises:
        RuntimeError: no device can be used; says why.
    """
    return get(Device("cuda"))


def placed(device: Any) -> Device:
    """A device with its number, from what people give for one; None is the current one.

    Raises:
        RuntimeError: it is not there.
    """
    place = cuda_device(device)
    found: Device = get(place).place(place)
    return found
