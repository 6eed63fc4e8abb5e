"""Arrays and kernels per device. Layer 1: it knows memory and mathematics, never graphs or ranks.

`of(array)` and `get(device)` find the Backend; a Backend gives `xp`, allocation, copies and kernels.
"""

from . import cpu as _cpu  # noqa: F401  registers the host
from .base import (
    Backend,
    Device,
    DeviceArray,
    cuda_device,
    default_place,
    device_of,
    get,
    get_default_device,
    is_pinned,
    move,
    of,
    of_type,
    set_default_device,
    when_several,
)
from .collectives import Collectives

__all__ = ["Backend", "Collectives", "Device", "DeviceArray", "cuda_device", "default_place", "device_of", "get",
           "get_default_device", "is_pinned", "move", "of", "of_type", "set_default_device", "when_several"]
