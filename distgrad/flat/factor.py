"""Factor: what gradients are still to be multiplied by, as a number, or as an array that its device alone knows.

[Note: factors on a device] On the host a clip comes to a number. On a device the number is not asked for, since asking
would wait until all that is queued there has ended: it stays in an array of one element, and whoever multiplies
gradients takes it from there. So it may be 1, or NaN, and nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from .._typing import Array
from ..backend import DeviceArray, device_of, of

__all__ = ["DeviceFactor", "Factor", "clip_factor", "may_wait", "multiply_", "operand"]


class DeviceFactor:
    """A factor in an array of one element.

    It is equal to itself alone: `factor != 1` holds, for there may be something to do, and it can be part of a key.
    """

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array


Factor: TypeAlias = float | DeviceFactor


def clip_factor(max_norm: float, norm: Any, like: Array) -> Factor:
    """min(1, max_norm / (norm + 1e-6)), rounded to the dtype of the gradients `like`; NaN stays NaN.

    Args:
        norm: a number or an array of one element. On the device of `like` it is not read, elsewhere it is.
    """
    limit, dtype = float(max_norm), like.real.dtype
    on_device = isinstance(norm, DeviceArray) and of(norm).name != "cpu"
    if on_device and device_of(norm) == device_of(like):
        return DeviceFactor(of(norm).kernels.clip_factor(norm, limit, dtype))
    factor = limit / ((norm.item() if on_device else float(norm)) + 1e-6)
    return float(dtype.type(1.0 if factor > 1 else factor))


def may_wait(factor: Factor) -> bool:
    """Whether memory may be multiplied by it later, with what lies between gradients: a number that is not finite would
    leave NaN there. What only a device knows is applied to gradients alone; see Group.settle."""
    return isinstance(factor, DeviceFactor) or math.isfinite(factor)


def operand(factor: Factor, sign: float = 1.0) -> float | Array:
    """sign * factor, as kernels take it: a number, or an array of one element."""
    if isinstance(factor, DeviceFactor):
        return factor.array if sign == 1 else factor.array * sign
    return sign * factor


def multiply_(arrays: Sequence[Array], factor: Factor) -> None:
    """Multiply arrays of one dtype and device by a factor that was rounded to it, in place."""
    if arrays and factor != 1:  # times 1 changes no bit
        of(arrays[0]).kernels.multiply_(arrays, operand(factor))
