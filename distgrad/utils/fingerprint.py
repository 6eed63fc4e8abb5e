"""A fingerprint of an array: its kind, and optionally a 64-bit checksum of its content.

Made where an array is let go, compared where it is computed again. One pass over the memory.
"""

from __future__ import annotations

from typing import Any

from .._typing import Array
from ..backend import of

__all__ = ["Fingerprint"]

_ROW = 4096          # 8-byte words that one weighted sum covers
_SMALL = 1 << 15     # bytes; below, hashing directly is faster than setting up sums
_weights: dict[str, Array] = {}


class Fingerprint:
    """What an array looked like.

    Args:
        array: a raw array.
        content: also take a checksum; equal bits give equal ones, another bit pattern another one (but
            for one chance in 2**32 or less). -0.0 and 0.0 differ, a NaN equals itself.
    """

    __slots__ = ("checksum", "device", "dtype", "order", "shape")

    def __init__(self, array: Array, content: bool = True) -> None:
        self.shape = tuple(array.shape)
        self.dtype = array.dtype
        self.device = of(array).name
        # Elements are read in the order in which they lie, so that a transposed array needs no copy.
        self.order = None if array.flags.c_contiguous else tuple(
            sorted(range(array.ndim), key=lambda i: -abs(array.strides[i])))
        self.checksum = self._checksum(array) if content else None

    def same_kind(self, array: Array) -> bool:
        """Whether shape, dtype and device are the same."""
        return bool(array.shape == self.shape and array.dtype == self.dtype and of(array).name == self.device)

    def same_content(self, array: Array) -> bool:
        """Whether an array of the same kind has the same bits; True when no checksum was taken."""
        return self.checksum is None or self._checksum(array) == self.checksum

    def __str__(self) -> str:
        return f"shape {self.shape}, {self.dtype}, {self.device}"

    def _checksum(self, array: Array) -> int:
        if self.order is not None:
            array = array.transpose(self.order)
        backend = of(array)
        flat = backend.xp.ascontiguousarray(array).reshape(-1)
        rows = flat.nbytes // (8 * _ROW) if flat.nbytes >= _SMALL else 0
        if not rows:
            return hash(backend.to_host(flat).tobytes())
        # A sum of words times odd random weights, modulo 2**64, for each row; then a hash over the rows.
        data = flat.view("uint8")
        words = data[:rows * 8 * _ROW].view("uint64").reshape(rows, _ROW)
        sums = backend.xp.dot(words, _row_weights(backend))
        rest = data[rows * 8 * _ROW:]
        return hash(backend.to_host(sums).tobytes() + backend.to_host(rest).tobytes())


def _row_weights(backend: Any) -> Array:
    """Odd 64-bit numbers, the same in every row, made once for each device."""
    found = _weights.get(backend.name)
    if found is None:
        import numpy as np

        numbers = np.random.Generator(np.random.PCG64(0xF1)).integers(0, 1 << 64, _ROW, dtype=np.uint64)
        found = _weights[backend.name] = backend.from_host(numbers | np.uint64(1))
    return found
