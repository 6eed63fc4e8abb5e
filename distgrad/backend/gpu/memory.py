"""Device memory from cupy's pools: an allocation that fails says how full the device is, and leaves the pool usable."""

from __future__ import annotations

from typing import Any

import cupy

from ...errors import OutOfMemoryError

__all__ = ["allocate", "out_of_memory", "pool"]

pool: Any = cupy.get_default_memory_pool()
_MIB = 1 << 20


def allocate(size: int) -> Any:
    """cupy's allocator: from the pool, which gives unused blocks back to the device before it gives up.

    Raises:
        OutOfMemoryError: the device has not so much left.
    """
    try:
        return pool.malloc(size)
    except cupy.cuda.memory.OutOfMemoryError:
        raise out_of_memory(size) from None


def out_of_memory(size: int) -> OutOfMemoryError:
    """The error for an allocation of `size` bytes that failed on the current device."""
    free, total = cupy.cuda.runtime.memGetInfo()
    return OutOfMemoryError(
        f"cuda:{cupy.cuda.runtime.getDevice()} has no {size / _MIB:,.1f} MiB left: of {total / _MIB:,.0f} MiB, "
        f"{free / _MIB:,.0f} are free, {pool.used_bytes() / _MIB:,.0f} hold this process's arrays, and "
        f"{(pool.total_bytes() - pool.used_bytes()) / _MIB:,.0f} are kept for its next ones. Take a smaller batch, "
        "delete tensors that are no longer needed, or call distgrad.cuda.empty_cache() if others need the memory")
