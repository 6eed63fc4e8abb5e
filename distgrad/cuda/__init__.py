"""CUDA devices, with torch.cuda's names. It can be asked anything on any machine: without a GPU, the answer is none.

Nothing here loads cupy unless it is installed and a device is asked for.
"""

from __future__ import annotations

from ..errors import OutOfMemoryError
from .devices import (
    DeviceProperties,
    current_device,
    device,
    device_count,
    get_device_capability,
    get_device_name,
    get_device_properties,
    is_available,
    manual_seed,
    manual_seed_all,
    set_device,
    synchronize,
)
from .memory import empty_cache, mem_get_info, memory_allocated, memory_reserved, memory_summary
from .streams import Event, Stream, current_stream, default_stream, stream

__all__ = ["DeviceProperties", "Event", "OutOfMemoryError", "Stream", "current_device", "current_stream",
           "default_stream", "device", "device_count", "empty_cache", "get_device_capability", "get_device_name",
           "get_device_properties", "is_available", "manual_seed", "manual_seed_all", "mem_get_info",
           "memory_allocated", "memory_reserved", "memory_summary", "set_device", "stream", "synchronize"]
