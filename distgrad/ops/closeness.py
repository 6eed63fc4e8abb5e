"""Are two tensors the same, or nearly? And numbers in the place of what is not finite."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.base import TensorBase, wrap
from ._declare import device_error
from .pointwise import isnan
from .select import where

__all__ = ["allclose", "equal", "isclose", "nan_to_num"]


def _pair(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    x, y = a.array, b.array
    if of(x) is not of(y):
        raise device_error(name, x, y)
    if x.dtype != y.dtype:
        raise RuntimeError(f"{name}: both have one dtype, got {x.dtype} and {y.dtype}")
    return x, y


def isclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Where |input - other| <= atol + rtol * |other|, element by element.

    Raises:
        RuntimeError: different dtypes or devices.
    """
    x, y = _pair("isclose", input, other)
    xp = of(x).xp
    return wrap(xp.asarray(xp.isclose(x, y, rtol, atol, equal_nan)))


def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether `isclose` holds everywhere."""
    found = isclose(input, other, rtol, atol, equal_nan).array
    return bool(of(found).xp.all(found))


def equal(input: Any, other: Any) -> bool:
    """Whether both have the same shape and elements."""
    x, y = input.array, other.array
    if of(x) is not of(y):
        raise device_error("equal", x, y)
    return bool(of(x).xp.array_equal(x, y))


def nan_to_num(input: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
    """NaN, inf and -inf replaced: by `nan`, and by the dtype's largest and smallest number unless given.

    The gradient passes where nothing was replaced.
    """
    x = input.array if isinstance(input, TensorBase) else input
    if x.dtype.kind != "f":
        return input
    limits = of(x).xp.finfo(x.dtype)
    high = float(limits.max) if posinf is None else posinf
    low = float(limits.min) if neginf is None else neginf
    inf = float("inf")
    return where(isnan(input), nan, where(input == inf, high, where(input == -inf, low, input)))
