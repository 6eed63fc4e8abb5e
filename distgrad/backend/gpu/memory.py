"""Memory of devices, and pinned memory of the host, from cupy's pools.

An allocation that fails says how full the device is, and leaves the pools usable.
"""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from ...errors import OutOfMemoryError
from .flight import in_flight

__all__ = ["allocate", "out_of_memory", "pinned", "pinned_pool", "pool"]

pool: Any = cupy.get_default_memory_pool()
pinned_pool: Any = cupy.get_default_pinned_memory_pool()
_MIB = 1 << 20


def allocate(size: int) -> Any:
    """cupy's allocator: from the pool, which gives unused blocks back to the device before it gives up.

    Raises:
        OutOfMemoryError: the device has not so much left.
    """
    try:
        return pool.malloc(size)
    except cupy.cuda.memory.OutOfMemoryError:
        pass
    in_flight.let_go()  # arrays of copies that have ended meanwhile
    try:
        return pool.malloc(size)
    except cupy.cuda.memory.OutOfMemoryError:
        raise out_of_memory(size) from None


def pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array in pinned memory of the host.

    Raises:
        OutOfMemoryError: the host has not so much that can be pinned.
    """
    kind = np.dtype(dtype)
    size = _rounded(math.prod(shape) * kind.itemsize)
    if not size:
        return np.empty(shape, kind)
    error_of = cupy.cuda.runtime.CUDARuntimeError
    try:
        return np.ndarray(shape, kind, cupy.cuda.alloc_pinned_memory(size))
    except error_of:
        in_flight.let_go()
        pinned_pool.free_all_blocks()
    try:
        return np.ndarray(shape, kind, cupy.cuda.alloc_pinned_memory(size))
    except error_of as error:
        raise OutOfMemoryError(f"the host has no {size / _MIB:,.1f} MiB left that can be pinned ({error}): "
                               "do without pin_memory, or keep fewer pinned tensors") from None


def _rounded(size: int) -> int:
    """A size of which there are few, so that blocks of batches that differ a little serve each other: cupy's pool
    finds a block of the same size only, and keeps all others."""
    unit = max(512, 1 << max(0, size.bit_length() - 4))  # at most an eighth is lost
    return -(-size // unit) * unit


def out_of_memory(size: int) -> OutOfMemoryError:
    """The error for an allocation of `size` bytes that failed on the current device."""
    free, total = cupy.cuda.runtime.memGetInfo()
    return OutOfMemoryError(
        f"cuda:{cupy.cuda.runtime.getDevice()} has no {size / _MIB:,.1f} MiB left: of {total / _MIB:,.0f} MiB, "
        f"{free / _MIB:,.0f} are free, {pool.used_bytes() / _MIB:,.0f} hold this process's arrays, and "
        f"{(pool.total_bytes() - pool.used_bytes()) / _MIB:,.0f} are kept for its next ones. Take a smaller batch, "
        "delete tensors that are no longer needed, or call distgrad.cuda.empty_cache() if others need the memory")
