"""Arrays and kernels per device. Layer 1: it knows memory and mathematics, never graphs or ranks.

`of(array)` and `get(device)` find the Backend; a Backend gives `xp`, allocation, copies and kernels.
"""

from . import cpu as _cpu  # noqa: F401  registers the host
from .base import Backend, Device, device_of, get, of, of_type

__all__ = ["Backend", "Device", "device_of", "get", "of", "of_type"]
