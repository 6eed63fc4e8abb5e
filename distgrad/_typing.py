"""Names for types that several layers write. Nothing runs here."""

from __future__ import annotations

from typing import Any, TypeAlias

# A raw array of whatever backend: numpy.ndarray, cupy.ndarray, or a strict array in tests.
Array: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
DType: TypeAlias = Any
Dims: TypeAlias = int | tuple[int, ...] | None

__all__ = ["Array", "DType", "Dims", "Shape"]
