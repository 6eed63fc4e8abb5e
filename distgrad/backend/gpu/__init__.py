"""GPUs: cupy's arrays, and kernels written for them. The only place where cupy is imported.

    driver (is there a GPU, and if not, why) -> device (memory, copies, streams) -> kernels (what is faster than
    the reference kernels, which run on cupy's namespace as they are)

Loaded when a tensor is first put on a CUDA device, never by `import distgrad`.
"""

from __future__ import annotations

from ..base import found_several, register
from .driver import load

__all__ = ["cupy"]

cupy = load()  # raises, and says why, where there is no device; the next attempt looks again

from .device import GPU  # noqa: E402 - it is imported only where cupy is

if register(GPU()).several:
    found_several()
