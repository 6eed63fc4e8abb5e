"""Operands on several devices: found when an operation has failed, so that operations which succeed pay nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import DeviceArray, device_of
from .base import TensorBase

__all__ = ["refuse_mixed"]


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
